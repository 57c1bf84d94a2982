//! `[plans.NAME]` and `organizations.default_plan`.

use std::collections::BTreeMap;

use crate::domain::plan::Plan;

use super::accepts::{Accepts, Known, Read};
use super::limits::PAYLOAD_CEILING;
use super::raw::Raw;
use super::reader::Reader;
use super::resolved::Plans;
use super::units::{number, or_word, size};
use super::validate::kept;

/// The plan that exists without being configured.
const BUILT_IN: &str = "default";
/// The word for a limit that a plan does not set.
const NONE: &str = "unlimited";
/// The keys of a plan.
const LIMITS: [&str; 5] =
    ["max_destinations", "events_per_second", "calls_per_second", "payload", "retention"];
/// The word for a plan that has no retention of its own.
const SERVERS: &str = "default";

/// Reads all plans; `payload_max` is the server's own limit, which no plan can exceed.
pub(super) fn plans(reader: &mut Reader<'_>, raw: &Raw, payload_max: u64) -> Option<Plans> {
    let default = reader.one("organizations.default_plan", BUILT_IN, |text: &str| Ok(text.to_owned()))?;
    let mut names = raw.plan_names(&LIMITS);
    names.insert(BUILT_IN.to_owned());
    let read: Vec<Option<Plan>> = names.iter().map(|name| plan(reader, name, payload_max)).collect();
    if !names.contains(&default) {
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let known = known.join(", ");
        reader.problem(
            "organizations.default_plan",
            format!("there is no plan `{default}`; use one of {known}, or add [plans.{default}]"),
        );
    }
    let plans: Option<Vec<Plan>> = read.into_iter().collect();
    let by_name: BTreeMap<String, Plan> = plans?.into_iter().map(|plan| (plan.name.clone(), plan)).collect();
    Some(Plans { default: by_name.get(&default)?.clone(), by_name })
}

fn plan(reader: &mut Reader<'_>, name: &str, payload_max: u64) -> Option<Plan> {
    let key = |limit: &str| format!("plans.{name}.{limit}");
    let max_destinations = reader.one(&key("max_destinations"), NONE, or_word(NONE, number(0, u32::MAX)));
    let events = reader.one(&key("events_per_second"), NONE, or_word(NONE, number(1, u32::MAX)));
    let calls = reader.one(&key("calls_per_second"), NONE, or_word(NONE, number(1, u32::MAX)));
    let payload = reader.one(&key("payload"), NONE, or_word(NONE, payload(payload_max)));
    let retention = reader.one(&key("retention"), SERVERS, or_word(SERVERS, kept()));
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 63 || !name.chars().all(fits) {
        let limit = LIMITS.iter().find(|limit| reader.is_set(&key(limit))).copied().unwrap_or_default();
        reader.problem(
            &key(limit),
            format!("`{name}` is no name of a plan; use up to 63 of a to z, 0 to 9 and -"),
        );
        return None;
    }
    Some(Plan {
        name: name.to_owned(),
        max_destinations: max_destinations?,
        max_events_per_second: events?,
        max_calls_per_second: calls?,
        max_payload_bytes: payload?.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX)),
        retention: retention?,
    })
}

/// What may be configured depends on `limits.payload`; what may be at all does not.
fn payload(most: u64) -> impl Read<Value = u64> {
    let accepts = Accepts::Size { least: 2, most: PAYLOAD_CEILING };
    Known(accepts, move |text: &str| size(2, most).read(text))
}
