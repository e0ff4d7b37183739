//! Budgets and pauses: what a call uses up durably, by settings, manifest and arguments. Their state lives in the ledger's
//! store and changes in the transaction of the call's event, so that no number of nodes or restarts gives anyone more.

use countersign_catalog::manifest::{Cooldown, CostRule};
use countersign_domain::{Millis, Principal, Refusal, RefusalKind, ToolRef, UpstreamName, WorkspaceName};
use countersign_ledger::state::{BudgetKey, Fingerprint, StateOp};
use serde_json::Value;

use crate::keyring::WorkspaceKeys;
use crate::registry::Tool;

/// How long a budget lasts before it begins anew, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// From the full hour to the next.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From the first of a month to the first of the next.
    Month,
}

/// What each principal may use up in a period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Its name, for messages and reports. Renaming a budget starts it anew.
    pub name: String,
    /// How long it lasts.
    pub period: Period,
    /// Calls, if they are counted.
    pub calls: Option<u64>,
    /// Cost in millionths of whatever the manifests count in, if it is counted.
    pub cost: Option<u64>,
    /// Whose calls it is about; every part that is given must match.
    pub scope: Scope,
}

/// Whose calls to what a budget is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only principals of this workspace.
    pub workspace: Option<WorkspaceName>,
    /// Only principals with this id.
    pub principal: Option<String>,
    /// Only principals with this role.
    pub role: Option<String>,
    /// Only this upstream.
    pub upstream: Option<UpstreamName>,
    /// Only this tool.
    pub tool: Option<ToolRef>,
}

impl Scope {
    fn matches(&self, principal: &Principal, tool: &ToolRef) -> bool {
        self.workspace.as_ref().is_none_or(|w| *w == principal.workspace)
            && self.principal.as_ref().is_none_or(|id| *id == principal.id)
            && self.role.as_ref().is_none_or(|role| principal.roles.contains(role))
            && self.upstream.as_ref().is_none_or(|u| *u == tool.upstream)
            && self.tool.as_ref().is_none_or(|t| t == tool)
    }
}

impl Period {
    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The period around this moment: when it began, and when it ends.
    pub fn bounds(self, now: Millis) -> (Millis, Millis) {
        const HOUR: Millis = 3_600_000;
        const DAY: Millis = 24 * HOUR;
        match self {
            Self::Hour => (now - now % HOUR, now - now % HOUR + HOUR),
            Self::Day => (now - now % DAY, now - now % DAY + DAY),
            Self::Month => {
                let (year, month, day) = civil(now / DAY);
                let start = now / DAY - (day - 1);
                (start * DAY, (start + days_in(year, month)) * DAY)
            }
        }
    }
}

/// Year, month (1 to 12) and day of the month of a day since 1970-01-01, in the proleptic Gregorian calendar. Counts the
/// years from March, so that the leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 31,
    }
}

/// What a call uses up: claimed with its intent, or for a plain read with its outcome.
#[derive(Debug, Default, Clone)]
pub(crate) struct Uses {
    spends: Vec<Spend>,
    pause: Option<(Fingerprint, u64)>,
    costs: bool,
}

#[derive(Debug, Clone)]
struct Spend {
    key: BudgetKey,
    start: Millis,
    end: Millis,
    amount: u64,
    limit: u64,
}

impl Uses {
    /// What this call would use.
    ///
    /// # Errors
    /// [`RefusalKind::InvalidArguments`] where a budget counts cost and the arguments do not tell it.
    pub fn of(
        budgets: &[Budget],
        principal: &Principal,
        tool: &Tool,
        input: &Value,
        keys: &WorkspaceKeys,
        now: Millis,
    ) -> Result<Self, Refusal> {
        let mut uses = Self {
            pause: tool.cooldown.as_ref().map(|c| pause(c, principal, &tool.tool, input, keys)),
            ..Self::default()
        };
        for budget in budgets.iter().filter(|b| b.scope.matches(principal, &tool.tool)) {
            let (start, end) = budget.period.bounds(now);
            let mut spend = |unit: &str, amount: u64, limit: u64| {
                let key = BudgetKey {
                    budget: format!("{}.{unit}", budget.name),
                    workspace: principal.workspace.clone(),
                    principal: principal.key(),
                };
                uses.spends.push(Spend { key, start, end, amount, limit });
            };
            if let Some(limit) = budget.calls {
                spend("calls", 1, limit);
            }
            if let (Some(limit), Some(rule)) = (budget.cost, &tool.cost) {
                let amount = cost(rule, input)?;
                if amount > 0 {
                    spend("cost", amount, limit);
                    uses.costs = true;
                }
            }
        }
        Ok(uses)
    }

    pub fn is_nothing(&self) -> bool {
        self.spends.is_empty() && self.pause.is_none()
    }

    /// Whether it must be claimed before the upstream is asked, even for a read: what costs must not be spent twice by two
    /// calls at a time.
    pub fn needs_intent(&self) -> bool {
        self.costs || self.pause.is_some()
    }

    /// The claims, for the transaction of the call's event.
    pub fn claim(&self) -> impl Iterator<Item = StateOp> + '_ {
        let spends = self.spends.iter().cloned().map(|s| StateOp::BudgetSpend {
            key: s.key,
            start: s.start,
            end: s.end,
            amount: s.amount,
            limit: s.limit,
        });
        spends.chain(self.pause.map(|(key, pause)| StateOp::CooldownBegin { key, pause }))
    }

    /// The claims given back: certainly nothing reached the upstream.
    pub fn give_back(&self) -> impl Iterator<Item = StateOp> + '_ {
        let spends = self.spends.iter().cloned();
        let returns = spends.map(|s| StateOp::BudgetReturn { key: s.key, start: s.start, amount: s.amount });
        returns.chain(self.pause.map(|(key, _)| StateOp::CooldownDrop { key }))
    }

    /// What stands in the way right now. Only the transaction decides; this look spares people requests in vain.
    pub fn standing(
        &self,
        reader: &dyn countersign_ledger::Reader,
        now: Millis,
    ) -> Result<Option<Refusal>, countersign_ledger::StoreError> {
        for spend in &self.spends {
            let used = reader.budget(&spend.key, spend.start)?;
            if used.checked_add(spend.amount).is_none_or(|sum| sum > spend.limit) {
                return Ok(Some(exhausted(&spend.key.budget, used, spend.limit, spend.end)));
            }
        }
        let Some((key, _)) = &self.pause else { return Ok(None) };
        Ok(reader.cooldown(key)?.filter(|until| now < *until).map(cooling_down))
    }
}

fn pause(
    rule: &Cooldown,
    principal: &Principal,
    tool: &ToolRef,
    input: &Value,
    keys: &WorkspaceKeys,
) -> (Fingerprint, u64) {
    // An argument that is not there is a value like any other.
    let value = rule.argument.as_ref().and_then(|pointer| input.pointer(pointer)).map(Value::to_string);
    let parts =
        [principal.key(), tool.to_string(), rule.argument.clone().unwrap_or_default(), value.unwrap_or_default()];
    let parts: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
    (keys.fingerprint("cooldown", &parts), u64::try_from(rule.pause.as_millis()).unwrap_or(u64::MAX))
}

/// What a call costs by its tool's rule, in millionths, rounded up.
fn cost(rule: &CostRule, input: &Value) -> Result<u64, Refusal> {
    let Some(pointer) = &rule.argument else { return Ok(rule.micros) };
    let number = input.pointer(pointer).and_then(Value::as_number).map(ToString::to_string);
    number.and_then(|text| scaled(&text, rule.micros)).ok_or_else(|| {
        let detail = format!("a budget counts what this call costs, which the argument {pointer} says: it must be a number that is not negative");
        Refusal::new(RefusalKind::InvalidArguments, detail)
    })
}

/// A decimal number times a factor, rounded up; `None` if it is negative or no number. What does not fit is the largest
/// number, which no budget has.
fn scaled(text: &str, factor: u64) -> Option<u64> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let mut value = digits.checked_mul(u128::from(factor))?;
    let mut shift = exponent - i64::try_from(fraction.len()).ok()?;
    while shift > 0 && value > 0 {
        let Some(larger) = value.checked_mul(10) else { return Some(u64::MAX) };
        (value, shift) = (larger, shift - 1);
    }
    let mut inexact = false;
    while shift < 0 && value > 0 {
        inexact |= !value.is_multiple_of(10);
        (value, shift) = (value / 10, shift + 1);
    }
    Some(u64::try_from(value + u128::from(inexact)).unwrap_or(u64::MAX))
}

/// The refusal of a budget that has not enough left.
pub(crate) fn exhausted(budget: &str, used: u64, limit: u64, until: Millis) -> Refusal {
    let wait = seconds_until(until);
    let detail = format!(
        "the budget {budget} has used {used} of {limit} and has not enough left for this call; it begins anew in {wait} s"
    );
    let mut refusal = Refusal::new(RefusalKind::BudgetExhausted, detail)
        .with("budget", budget)
        .with("used", used)
        .with("limit", limit)
        .with("resets_at", until);
    refusal.retry_after = Some(wait);
    refusal
}

/// The refusal of a call that comes too soon after the last one like it.
pub(crate) fn cooling_down(until: Millis) -> Refusal {
    let wait = seconds_until(until);
    let detail = format!("such a call was made a short while ago; the next one is possible in {wait} s");
    let mut refusal = Refusal::new(RefusalKind::CoolingDown, detail).with("until", until);
    refusal.retry_after = Some(wait);
    refusal
}

fn seconds_until(until: Millis) -> u64 {
    until.saturating_sub(countersign_ledger::handle::system_clock()).div_ceil(1000).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_follow_the_calendar() {
        const DAY: u64 = 86_400_000;
        // 2024-02-29 12:34:56.789 UTC is in a leap year.
        let leap = 19_782 * DAY + 45_296_789;
        assert_eq!(Period::Hour.bounds(leap), (19_782 * DAY + 43_200_000, 19_782 * DAY + 46_800_000));
        assert_eq!(Period::Day.bounds(leap), (19_782 * DAY, 19_783 * DAY));
        assert_eq!(Period::Month.bounds(leap), (19_754 * DAY, 19_783 * DAY), "29 days");
        assert_eq!(Period::Month.bounds(19_783 * DAY), (19_783 * DAY, 19_814 * DAY), "March has 31");
        // 2026-12-31 and 2100-02-28, which is no leap year.
        assert_eq!(Period::Month.bounds(20_818 * DAY), (20_788 * DAY, 20_819 * DAY));
        let (start, end) = Period::Month.bounds(47_540 * DAY);
        assert_eq!((end - start) / DAY, 28);
        for day in 0..60_000 {
            let (start, end) = Period::Month.bounds(day * DAY);
            assert!(start <= day * DAY && day * DAY < end && (28..=31).contains(&((end - start) / DAY)), "{day}");
            assert_eq!(Period::Month.bounds(end).0, end, "months leave no gaps");
        }
    }

    #[test]
    fn costs_are_exact_and_rounded_up() {
        let cases = [
            ("12", 1_000_000, Some(12_000_000)),
            ("0.1", 1_000_000, Some(100_000)),
            ("1200.5", 1_000_000, Some(1_200_500_000)),
            ("0.0000001", 1_000_000, Some(1)),
            ("1e-7", 1_000_000, Some(1)),
            ("0.0", 1_000_000, Some(0)),
            ("1.5e3", 2, Some(3_000)),
            ("1e300", 1, Some(u64::MAX)),
            ("1e-300", 1, Some(1)),
            ("-1", 1, None),
            ("-0.5", 1, None),
        ];
        for (text, factor, expected) in cases {
            assert_eq!(scaled(text, factor), expected, "{text} × {factor}");
        }
    }
}
