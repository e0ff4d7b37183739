//! The `[limits]` section: what callers may send, how often, and what they may use up.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use countersign_gate::breakers::BreakerRule;
use countersign_gate::budgets::{Budget, Period, Scope};
use countersign_gate::limits::WhenAway;

use super::file::{FileBreakers, FileBudget, FileLimits, FileRate, FileRedis};
use super::{ConfigError, LimitSettings, RateLimit, RedisSettings, Source, parse_duration};

/// Names the shared store in the environment.
const REDIS_URL: &str = "COUNTERSIGN_REDIS_URL";
/// Most budgets: each call looks at all of them.
const MAX_BUDGETS: usize = 200;
/// The largest number that every reader of the reports writes the same.
const MAX_AMOUNT: u64 = (1 << 53) - 1;

/// The `[limits]` section with its defaults.
///
/// # Errors
/// [`ConfigError::File`] with the line.
pub(super) fn settings(
    file: FileLimits,
    body_bytes: usize,
    source: &Source,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<LimitSettings, ConfigError> {
    let or = |given: Option<RateLimit>, calls: u32| {
        let calls = NonZeroU32::new(calls).unwrap_or(NonZeroU32::MIN);
        given.unwrap_or(RateLimit { calls, per: Duration::from_secs(60) })
    };
    let rate = |given| rate(given, source);
    let within = |value, name, default, low, high| within(value, name, default, (low, high), source);
    let in_flight = within(file.in_flight, "in_flight", 4096, 1, 1_000_000)?;
    Ok(LimitSettings {
        per_principal: or(rate(file.per_principal)?, 600),
        per_tool: or(rate(file.per_tool)?, 1200),
        per_principal_and_tool: rate(file.per_principal_and_tool)?,
        per_workspace: rate(file.per_workspace)?,
        global: rate(file.global)?,
        redis: redis(file.redis, source, env)?,
        in_flight,
        in_flight_per_workspace: within(
            file.in_flight_per_workspace,
            "in_flight_per_workspace",
            in_flight.div_ceil(2),
            1,
            1_000_000,
        )?,
        breakers: breakers(file.breakers, source)?,
        budgets: budgets(file.budgets, source)?,
        open_requests: u32::try_from(within(file.open_requests, "open_requests", 20, 1, 10_000)?).unwrap_or(u32::MAX),
        body_bytes: within(file.body_bytes, "body_bytes", body_bytes, 1024, 64 << 20)?,
        depth: within(file.depth, "depth", 64, 4, 120)?,
        connections: within(file.connections, "connections", 4096, 1, 1_000_000)?,
        header_timeout: time(file.header_timeout, 15_000, source)?,
        body_timeout: time(file.body_timeout, 30_000, source)?,
    })
}

fn rate(given: Option<FileRate>, source: &Source) -> Result<Option<RateLimit>, ConfigError> {
    let Some(given) = given else { return Ok(None) };
    let per = parse_duration(given.per.get_ref()).map_err(|m| source.complain(&given.per, m))?;
    let calls = NonZeroU32::new(*given.calls.get_ref());
    let calls = calls.ok_or_else(|| source.complain(&given.calls, "calls must be at least 1".to_owned()))?;
    if per.is_zero() {
        return Err(source.complain(&given.per, "per must be longer than nothing".to_owned()));
    }
    Ok(Some(RateLimit { calls, per }))
}

fn within(
    value: Option<toml::Spanned<usize>>,
    name: &str,
    default: usize,
    (low, high): (usize, usize),
    source: &Source,
) -> Result<usize, ConfigError> {
    let Some(value) = value else { return Ok(default) };
    let fits = (low..=high).contains(value.get_ref());
    let message = format!("{name} must be between {low} and {high}");
    if fits { Ok(value.into_inner()) } else { Err(source.complain(&value, message)) }
}

fn time(value: Option<toml::Spanned<String>>, default_ms: u64, source: &Source) -> Result<Duration, ConfigError> {
    let Some(text) = value else { return Ok(Duration::from_millis(default_ms)) };
    match parse_duration(text.get_ref()) {
        Ok(time) if !time.is_zero() => Ok(time),
        Ok(_) => Err(source.complain(&text, "must be longer than nothing".to_owned())),
        Err(message) => Err(source.complain(&text, message)),
    }
}

fn redis(
    file: Option<FileRedis>,
    source: &Source,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<RedisSettings>, ConfigError> {
    let given = env(REDIS_URL);
    let file = match (file, &given) {
        (None, None) => return Ok(None),
        (file, _) => file.unwrap_or_default(),
    };
    let when_away = match file.when_away.as_ref().map(|word| word.get_ref().as_str()) {
        None | Some("local") => WhenAway::Local,
        Some("refuse") => WhenAway::Refuse,
        Some(_) => {
            let place = file.when_away.as_ref().map_or(0, |word| word.span().start);
            return Err(source.at_offset(place, "when_away must be local or refuse".to_owned()));
        }
    };
    let from_file = |path: &std::path::PathBuf| {
        let path = source.path.parent().unwrap_or(std::path::Path::new(".")).join(path);
        let text = std::fs::read_to_string(&path).map_err(|error| ConfigError::Io { path, error })?;
        Ok::<_, ConfigError>(text.trim().to_owned())
    };
    let url = match (given, &file.url, &file.url_file) {
        (Some(url), _, _) => url,
        (None, Some(url), None) => url.get_ref().clone(),
        (None, None, Some(path)) => from_file(path)?,
        (None, _, _) => {
            let message = format!("[limits.redis] takes a url, a url_file or {REDIS_URL}: one of them");
            return Err(ConfigError::Refused(message));
        }
    };
    let fits = url::Url::parse(&url).is_ok_and(|url| url.scheme() == "redis" && url.has_host());
    if !fits {
        // Not repeated here: it may hold a password.
        let message = "the URL of [limits.redis] must be like redis://host:6379".to_owned();
        return Err(ConfigError::Refused(message));
    }
    Ok(Some(RedisSettings { url, when_away, timeout: time(file.timeout, 50, source)? }))
}

fn breakers(file: Option<FileBreakers>, source: &Source) -> Result<Option<BreakerRule>, ConfigError> {
    let Some(file) = file else { return Ok(Some(BreakerRule::default())) };
    if file.enabled == Some(false) {
        return Ok(None);
    }
    let default = BreakerRule::default();
    let number = |value: Option<toml::Spanned<usize>>, name: &str, default: u32| {
        let number = within(value, name, default as usize, (1, 1000), source)?;
        Ok::<_, ConfigError>(u32::try_from(number).unwrap_or(default))
    };
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let open_for = time(file.open_for, millis(default.open_for), source)?;
    Ok(Some(BreakerRule {
        consecutive: number(file.consecutive, "consecutive", default.consecutive)?,
        failures: number(file.failures, "failures", default.failures)?,
        of: number(file.of, "of", default.of)?,
        open_for,
        open_at_most: time(file.open_at_most, millis(default.open_at_most), source)?.max(open_for),
    }))
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
