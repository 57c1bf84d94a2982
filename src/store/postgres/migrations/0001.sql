-- The first layout. One statement a thing, and a reason for each index and each storage setting.

-- The one row that puts accepted events in order over all replicas: who accepts holds it from drawing keys until
-- the commit, so that keys grow in commit order and "read on after key K" misses nothing. It is updated with
-- every group, so its page has room for many dead versions, which are pruned without a vacuum.
CREATE TABLE sequencer (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    last_key uuid NOT NULL,
    config_version bigint NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
INSERT INTO sequencer (last_key, config_version) VALUES ('00000000-0000-0000-0000-000000000000', 0);

-- What is known of the installation as a whole. The id names the channel on which replicas wake each other.
CREATE TABLE installation (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    -- The sealing key that the store made for itself where the operator gave none.
    own_key text,
    -- How much was stored when it was written last, and how far early removal has come.
    stored_bytes bigint NOT NULL DEFAULT 0,
    removed_accepted bigint,
    removed_changed bigint
) WITH (fillfactor = 10);
INSERT INTO installation DEFAULT VALUES;

-- Events, by key, which begins with the time: a partition holds a stretch of time and is dropped as a whole.
-- Written once; the only later writes erase data or add a route.
CREATE TABLE events (
    event_key uuid NOT NULL,
    -- The bucket of its only destination; absent where it has none or several. A replica that catches up with what
    -- others accepted asks for its own buckets alone.
    bucket smallint,
    record bytea NOT NULL,
    PRIMARY KEY (event_key)
) PARTITION BY RANGE (event_key);

-- The ids that callers gave. Unique over all partitions of events, therefore not partitioned itself; rows go
-- with their events, in small steps.
CREATE TABLE event_ids (
    organization_id text NOT NULL,
    event_id text NOT NULL,
    event_key uuid NOT NULL,
    digest bytea NOT NULL,
    PRIMARY KEY (organization_id, event_id)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
-- Events go by key, and their ids with them. Keys grow, so new entries go to the end of the index.
CREATE INDEX event_ids_by_event ON event_ids (event_key);

-- Deliveries that wait for their first attempt. Small and hot: a row lives for as long as its delivery waits, so
-- it is vacuumed by number and not by share, and at full speed.
CREATE TABLE waiting (
    destination_id uuid NOT NULL,
    event_key uuid NOT NULL,
    PRIMARY KEY (destination_id, event_key)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000,
        autovacuum_vacuum_cost_delay = 0);

-- Deliveries that wait for a due time, each once.
CREATE TABLE due (
    destination_id uuid NOT NULL,
    event_key uuid NOT NULL,
    due_at bigint NOT NULL,
    -- When a caller began its cycle; absent for retries.
    requeued_at bigint,
    record bytea NOT NULL,
    PRIMARY KEY (destination_id, event_key)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000,
        autovacuum_vacuum_cost_delay = 0);
-- The order in which a lane reads them.
CREATE INDEX due_in_order ON due (destination_id, due_at, event_key);

-- Deliveries from their first outcome on, by key like their events.
CREATE TABLE deliveries (
    destination_id uuid NOT NULL,
    event_key uuid NOT NULL,
    -- 1 waiting, 2 succeeded, 3 dead letter, 4 discarded, 5 cancelled, 6 dead letter that has expired.
    state smallint NOT NULL,
    -- When it came to its end; absent while it waits.
    ended_at bigint,
    -- The replica that has it in memory alone (best effort).
    holder uuid,
    record bytea NOT NULL,
    PRIMARY KEY (destination_id, event_key)
) PARTITION BY RANGE (event_key);
-- Dead letters are few and asked for by themselves: to list, to count, to replay, to expire.
CREATE INDEX dead_letters ON deliveries (destination_id, event_key) WHERE state = 3;
-- What a replica that is gone had in memory is ended by another one.
CREATE INDEX held_deliveries ON deliveries (holder) WHERE holder IS NOT NULL;

CREATE TABLE organizations (
    id text PRIMARY KEY,
    revision bigint NOT NULL,
    record bytea[] NOT NULL
);
CREATE TABLE destinations (
    id uuid PRIMARY KEY,
    organization_id text NOT NULL,
    revision bigint NOT NULL,
    record bytea[] NOT NULL
);
-- Plans limit how many an organization has; erasing one removes them.
CREATE INDEX destinations_of ON destinations (organization_id);
CREATE TABLE erasures (organization_id text PRIMARY KEY);

-- The health of destinations: written with outcomes, so its pages have room for new versions.
CREATE TABLE health (
    destination_id uuid PRIMARY KEY,
    record bytea NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- What changed of organizations and destinations, so that replicas read no more than that. The oldest entries go
-- with each new one; a replica that was away for longer reads everything.
CREATE TABLE config_log (
    version bigint PRIMARY KEY,
    kind smallint NOT NULL,
    id text NOT NULL
);

CREATE TABLE replays (
    id uuid PRIMARY KEY,
    organization_id text NOT NULL,
    running boolean NOT NULL,
    record bytea[] NOT NULL
);
CREATE INDEX replays_of ON replays (organization_id, id);
CREATE INDEX running_replays ON replays (id) WHERE running;
-- How deliveries of a replay ended: counted beside the replay, so that outcomes and steps don't wait for each other.
CREATE TABLE replay_ends (
    replay_id uuid PRIMARY KEY,
    succeeded bigint NOT NULL DEFAULT 0,
    failed bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE audit (
    id uuid PRIMARY KEY,
    organization_id text NOT NULL,
    record bytea[] NOT NULL
);
CREATE INDEX audit_of ON audit (organization_id, id);

-- The replicas that live. One row each is renewed; a replica that is gone is removed by another one, and whatever it
-- would still write looks for its row first.
CREATE TABLE members (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    joined_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Destinations are in buckets by their ids. Who owns a bucket has the leases of its lanes.
CREATE TABLE buckets (
    bucket smallint PRIMARY KEY,
    owner uuid,
    epoch bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO buckets (bucket) SELECT generate_series(0, 255);
