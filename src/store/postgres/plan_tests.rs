//! The plans of hot statements on large tables: each finds its rows by an index, and touches no more partitions than it
//! must.

use super::tests::{options, server};
use super::{PostgresStore, accept, change, conveyor, listing, reader, settle, write};

/// A hundred destinations with ten thousand deliveries each over four days, a tenth of which waits.
const FILL: &str = "
    CREATE FUNCTION key(day int, number int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
        SELECT (lpad(to_hex((20000 + day)::bigint * 86400000 + number * 300), 12, '0') || '70008000' || lpad(to_hex(number), 12, '0'))::uuid
    $$;
    CREATE FUNCTION owner(number int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
        SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(number % 100), 12, '0'))::uuid
    $$;
    INSERT INTO events SELECT key(d, n), NULL, '\\x0102030405060708'::bytea
        FROM generate_series(0, 3) d, generate_series(1, 50000) n;
    INSERT INTO deliveries SELECT owner(n), key(d, n), CASE WHEN n % 1000 = 0 THEN 3 ELSE 2 END, 1, NULL, '\\x01020304'::bytea
        FROM generate_series(0, 3) d, generate_series(1, 50000) n;
    INSERT INTO waiting SELECT owner(n), key(3, n) FROM generate_series(1, 50000) n;
    INSERT INTO due SELECT owner(n), key(2, n), n, NULL, '\\x01'::bytea FROM generate_series(1, 20000) n;
    INSERT INTO event_ids SELECT 'acme', 'evt-' || n, key(3, n), '\\x01'::bytea FROM generate_series(1, 50000) n;
    ANALYZE";

const SETTINGS: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off;
    SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off;";

/// How a destination, a key and lists of them are written.
const OWNER: &str = "owner(7)";
const KEY: &str = "key(2, 700)";
const OWNERS: &str = "ARRAY[owner(7), owner(8)]";
const KEYS: &str = "ARRAY[key(2, 707), key(3, 708)]";

#[tokio::test]
async fn hot_statements_find_their_rows_by_an_index_on_large_tables() {
    let url = server().database();
    let store = PostgresStore::open(options(url.clone(), None)).unwrap();
    let database = url.rsplit_once('/').unwrap().1;
    for day in 20000..20004 {
        let client = store.core.writes.get().await.unwrap();
        store.core.partitions.ensure(&client, day).await.unwrap();
    }
    server().sql(database, FILL);
    let cases: [(&str, &str, String); 13] = [
        ("load fresh", reader::FRESH, format!("{OWNER}, {KEY}, 100, 1048576")),
        ("load due", reader::DUE, format!("{OWNER}, 5, {KEY}, 100")),
        ("destinations with work", reader::WITH_WORK, String::new()),
        ("delivery", reader::DELIVERY, format!("{OWNER}, {KEY}")),
        ("events", change::EVENTS, KEYS.to_owned()),
        ("catch up", conveyor::BETWEEN, format!("{KEY}, key(2, 900), ARRAY[7::smallint], 100")),
        ("known ids", accept::BY_ID, "ARRAY['acme'], ARRAY['evt-5']".to_owned()),
        ("take waiting", settle::TAKE_WAITING, format!("{OWNERS}, {KEYS}")),
        ("lock deliveries", change::LOCK_DELIVERIES, format!("{OWNERS}, {KEYS}")),
        ("remove due", write::REMOVE_DUE, format!("{OWNERS}, {KEYS}")),
        ("list", listing::RECORDED, format!("{OWNERS}, {KEYS}, {KEYS}, 100, ARRAY[]::smallint[]")),
        ("list dead letters", listing::DEAD_LETTERS, format!("{OWNERS}, {KEYS}, {KEYS}, 100")),
        ("list fresh", listing::FRESH, format!("{OWNERS}, {KEYS}, {KEYS}, 100")),
    ];
    for (what, statement, arguments) in cases {
        let arguments = if arguments.is_empty() { arguments } else { format!("({arguments})") };
        let explain = format!(
            "{SETTINGS} PREPARE s AS {statement}; EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) EXECUTE s{arguments}"
        );
        let plan = server().sql(database, &explain);
        assert!(!plan.contains("Seq Scan on"), "{what}:\n{plan}");
        assert!(plan.contains("Index"), "{what}:\n{plan}");
        let touched: u32 = buffers(&plan);
        assert!(touched < 1500, "{what} touches {touched} pages:\n{plan}");
    }
}

/// How many pages the whole plan touched: what the first line about it says.
fn buffers(plan: &str) -> u32 {
    let line = plan.lines().find(|line| line.trim_start().starts_with("Buffers:")).unwrap();
    let counts = line.split([' ', '=']).filter_map(|word| word.parse::<u32>().ok());
    counts.sum()
}
