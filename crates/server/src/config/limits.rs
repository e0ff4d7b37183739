//! The `[limits]` section: what callers may send, how often, and what they may use up.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use countersign_gate::budgets::{Budget, Period, Scope};

use super::file::{FileBudget, FileLimits, FileRate};
use super::{ConfigError, LimitSettings, RateLimit, Source, parse_duration};

/// Most budgets: each call looks at all of them.
const MAX_BUDGETS: usize = 200;
/// The largest number that every reader of the reports writes the same.
const MAX_AMOUNT: u64 = (1 << 53) - 1;

/// The `[limits]` section with its defaults.
///
/// # Errors
/// [`ConfigError::File`] with the line.
pub(super) fn settings(file: FileLimits, source: &Source) -> Result<LimitSettings, ConfigError> {
    let rate = |given: Option<FileRate>, calls: u32| -> Result<RateLimit, ConfigError> {
        let Some(given) = given else {
            let calls = NonZeroU32::new(calls).unwrap_or(NonZeroU32::MIN);
            return Ok(RateLimit { calls, per: Duration::from_secs(60) });
        };
        let per = parse_duration(given.per.get_ref()).map_err(|m| source.complain(&given.per, m))?;
        let calls = NonZeroU32::new(*given.calls.get_ref());
        let calls = calls.ok_or_else(|| source.complain(&given.calls, "calls must be at least 1".to_owned()))?;
        if per.is_zero() {
            return Err(source.complain(&given.per, "per must be longer than nothing".to_owned()));
        }
        Ok(RateLimit { calls, per })
    };
    let within = |value: Option<toml::Spanned<usize>>, name: &str, default: usize, low: usize, high: usize| {
        let Some(value) = value else { return Ok(default) };
        let fits = (low..=high).contains(value.get_ref());
        let message = format!("{name} must be between {low} and {high}");
        if fits { Ok(value.into_inner()) } else { Err(source.complain(&value, message)) }
    };
    let time = |value: Option<toml::Spanned<String>>, default: u64| match value {
        None => Ok(Duration::from_secs(default)),
        Some(text) => match parse_duration(text.get_ref()) {
            Ok(time) if !time.is_zero() => Ok(time),
            Ok(_) => Err(source.complain(&text, "must be longer than nothing".to_owned())),
            Err(message) => Err(source.complain(&text, message)),
        },
    };
    Ok(LimitSettings {
        budgets: budgets(file.budgets, source)?,
        per_principal: rate(file.per_principal, 600)?,
        per_tool: rate(file.per_tool, 1200)?,
        open_requests: u32::try_from(within(file.open_requests, "open_requests", 20, 1, 10_000)?).unwrap_or(u32::MAX),
        body_bytes: within(file.body_bytes, "body_bytes", 1 << 20, 1024, 64 << 20)?,
        depth: within(file.depth, "depth", 64, 4, 120)?,
        connections: within(file.connections, "connections", 4096, 1, 1_000_000)?,
        header_timeout: time(file.header_timeout, 15)?,
        body_timeout: time(file.body_timeout, 30)?,
    })
}

fn budgets(files: Vec<FileBudget>, source: &Source) -> Result<Vec<Budget>, ConfigError> {
    let mut names = BTreeSet::new();
    let mut budgets = Vec::with_capacity(files.len());
    for file in files {
        let budget = budget(&file, source)?;
        if !names.insert(budget.name.clone()) || names.len() > MAX_BUDGETS {
            let message = format!("budgets have different names, and there are at most {MAX_BUDGETS}");
            return Err(source.complain(&file.name, message));
        }
        budgets.push(budget);
    }
    Ok(budgets)
}

fn budget(file: &FileBudget, source: &Source) -> Result<Budget, ConfigError> {
    let name = file.name.get_ref();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !(1..=40).contains(&name.len()) || !name.bytes().all(plain) {
        return Err(source.complain(&file.name, "a budget's name is 1 to 40 of a-z, 0-9 and '-'".to_owned()));
    }
    let period = match file.per.get_ref().as_str() {
        "hour" => Period::Hour,
        "day" => Period::Day,
        "month" => Period::Month,
        _ => return Err(source.complain(&file.per, "per must be hour, day or month".to_owned())),
    };
    let amount = |value: &Option<toml::Spanned<u64>>| match value {
        Some(value) if *value.get_ref() > MAX_AMOUNT => {
            Err(source.complain(value, format!("at most {MAX_AMOUNT} fit here")))
        }
        value => Ok(value.as_ref().map(|value| *value.get_ref())),
    };
    let (calls, cost) = (amount(&file.calls)?, amount(&file.cost)?);
    if calls.is_none() && cost.is_none() {
        return Err(source.complain(&file.name, "a budget counts calls, cost or both".to_owned()));
    }
    fn named<T: std::str::FromStr>(
        value: &Option<toml::Spanned<String>>,
        what: &str,
        source: &Source,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = value else { return Ok(None) };
        let parsed =
            value.get_ref().parse().map_err(|_| source.complain(value, format!("{:?} is not {what}", value.get_ref())));
        parsed.map(Some)
    }
    let scope = Scope {
        workspace: named(&file.workspace, "a workspace's name", source)?,
        principal: file.principal.clone(),
        role: file.role.clone(),
        upstream: named(&file.upstream, "an upstream's name", source)?,
        tool: named(&file.tool, "upstream:tool", source)?,
    };
    Ok(Budget { name: name.clone(), period, calls, cost, scope })
}
