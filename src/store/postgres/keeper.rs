//! Who looks after the leases: renews, takes over what the dead owned, gives away what is too much, and is the poll
//! behind all notifications.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::clock::FollowingClock;
use super::connect::{Tx, query};
use super::fault::Fault;
use super::lease::share;
use super::rows::{bucket_of, limit};
use super::{Core, LeaseOptions, keys, listen};
use crate::domain::id::DestinationId;
use crate::domain::time::Timestamp;
use crate::store::LostLanes;

/// How often whatever was not notified is looked for.
const POLL: Duration = Duration::from_millis(800);
/// How often a lane that is given away is looked at until nothing of it is under way.
const DRAIN: Duration = Duration::from_millis(20);
/// How soon a database that did not answer is asked again.
const RETRY: Duration = Duration::from_millis(200);

/// What the keeper remembers between two looks.
#[derive(Default)]
struct State {
    /// Whether the present membership was written.
    joined: bool,
    /// Buckets that were gained and whose waiting deliveries are still to be found.
    to_open: BTreeSet<u8>,
    /// Buckets that are given away when nothing of them is under way any more.
    leaving: BTreeSet<u8>,
    polled_at: Option<Instant>,
    renewed_at: Option<Instant>,
    /// Nothing is counted before this moment.
    count_at: Option<Instant>,
    /// What was counted last: deliveries that wait, and dead letters.
    counted: (i64, i64),
}

/// Looks after the leases until the store is closed.
pub(super) async fn run(core: Arc<Core>, clock: Option<Arc<FollowingClock>>) {
    let mut state = State::default();
    while !core.closing.is_cancelled() {
        let looked = core.in_time(core.look(&mut state, clock.as_deref())).await;
        let pause = match looked {
            Ok(pause) => pause,
            Err(fault) => {
                tracing::warn!(%fault, "the database could not be asked about leases");
                core.metrics.is_up(false);
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = core.lease_call.notified() => {}
            () = core.closing.cancelled() => {}
        }
    }
}

impl Core {
    async fn look(&self, state: &mut State, clock: Option<&FollowingClock>) -> Result<Duration, Fault> {
        let options = self.leases.options().filter(|_| self.listener.get().is_some());
        if let Some(options) = options {
            self.keep_leases(state, options, clock).await?;
        } else if let Some(clock) = clock {
            self.follow_time(clock).await?;
        }
        self.metrics.is_up(true);
        if state.polled_at.is_none_or(|at| at.elapsed() >= POLL) {
            self.refresh().await?;
            self.catch_up_with_all().await?;
            self.write_size().await?;
            state.polled_at = Some(Instant::now());
            self.count(state).await?;
        }
        Ok(if state.leaving.is_empty() && state.to_open.is_empty() { self.pause() } else { DRAIN })
    }

    fn pause(&self) -> Duration {
        self.leases.options().map_or(POLL, |options| (options.duration / 5).min(POLL))
    }

    async fn keep_leases(
        &self,
        state: &mut State,
        options: &LeaseOptions,
        clock: Option<&FollowingClock>,
    ) -> Result<(), Fault> {
        if !state.joined {
            self.join(state, options).await?;
        }
        let due = state.renewed_at.is_none_or(|at| at.elapsed() >= self.pause());
        if due && !self.renew(state, options, clock).await? {
            return Ok(());
        }
        if due {
            self.bury_the_dead().await?;
            self.balance(state).await?;
        }
        self.let_go(state).await?;
        self.open(state).await
    }

    /// Becomes a member, once nothing of an earlier membership is under way any more.
    async fn join(&self, state: &mut State, options: &LeaseOptions) -> Result<(), Fault> {
        if !self.busy().is_empty() {
            return Ok(());
        }
        let asked_at = Instant::now();
        let (me, seconds) = (self.leases.holder(), options.duration.as_secs_f64());
        let tx = Tx::begun(&self.writes).await?;
        keys::check_joining(&tx, &self.keyring, me).await?;
        tx.query(JOIN, &[&me, &options.name, &seconds, &keys::ids(&self.keyring)]).await?;
        tx.commit().await?;
        self.skip_to_end().await?;
        self.leases.renewed(asked_at, options.duration);
        state.joined = true;
        self.call_others().await
    }

    /// Renews the membership; answers whether it was still there.
    async fn renew(
        &self,
        state: &mut State,
        options: &LeaseOptions,
        clock: Option<&FollowingClock>,
    ) -> Result<bool, Fault> {
        let (asked_at, before) = (Instant::now(), clock.map(FollowingClock::machine_time));
        let client = self.writes.get().await?;
        let rows = query(&client, RENEW, &[&self.leases.holder(), &options.duration.as_secs_f64()]).await?;
        let Some(row) = rows.first().filter(|_| state.joined) else {
            self.lose_everything(state);
            return Ok(false);
        };
        if let (Some(clock), Some(before)) = (clock, before) {
            clock.heard((before, clock.machine_time()), Timestamp::from_millis(row.get(0)));
        }
        let had_lapsed = !self.leases.are_valid();
        self.leases.renewed(asked_at, options.duration);
        state.renewed_at = Some(asked_at);
        if had_lapsed {
            // Nobody took the lanes meanwhile. Each goes on from what is stored, once nothing of it is under way.
            let owned = self.leases.owned();
            self.lose(owned.clone());
            state.to_open.extend(owned);
        }
        Ok(true)
    }

    pub(super) async fn follow_time(&self, clock: &FollowingClock) -> Result<(), Fault> {
        let before = clock.machine_time();
        let client = self.reads.get().await?;
        let rows = query(&client, TIME, &[]).await?;
        if let Some(row) = rows.first() {
            clock.heard((before, clock.machine_time()), Timestamp::from_millis(row.get(0)));
        }
        Ok(())
    }

    /// Another replica has taken this one for dead. Its lanes are no longer ours, and what is under way can't be
    /// settled by us.
    fn lose_everything(&self, state: &mut State) {
        if state.joined {
            tracing::warn!("the leases of this replica have lapsed and were taken over");
        }
        self.leases.expire();
        self.lose((0..=u8::MAX).collect());
        self.leases.rename();
        *state = State { counted: state.counted, ..State::default() };
    }

    /// The lanes of these buckets are not ours from here on.
    fn lose(&self, buckets: BTreeSet<u8>) {
        self.leases.remove(buckets.iter().copied());
        let lost = LostLanes::of(move |id| buckets.contains(&bucket_of(id)));
        self.tell(|listener| listener.lanes_lost(&lost));
    }

    /// Removes members that have not renewed in time, and frees what they owned.
    async fn bury_the_dead(&self) -> Result<(), Fault> {
        let client = self.writes.get().await?;
        let dead = query(&client, DEAD, &[]).await?;
        drop(client);
        for row in &dead {
            let (id, name): (Uuid, String) = (row.get(0), row.get(1));
            let tx = Tx::begun(&self.writes).await?;
            if tx.query(BURY, &[&id]).await?.is_empty() {
                tx.roll_back().await;
                continue;
            }
            let freed = tx.query(FREE, &[&id]).await?.len();
            self.notify(&tx, vec![listen::buckets_moved(&self.leases)]).await?;
            tx.commit().await?;
            tracing::warn!(
                replica = name,
                lanes_of = freed,
                "a replica gave no sign of life; its lanes are taken over"
            );
            self.abandon(id).await?;
        }
        Ok(())
    }

    /// Takes what is free, up to a fair share, and gives away what is above it.
    async fn balance(&self, state: &mut State) -> Result<(), Fault> {
        let client = self.writes.get().await?;
        let rows = query(&client, STANDING, &[]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let members = usize::try_from(row.get::<_, i64>(0)).unwrap_or(1);
        let free: i64 = row.get(1);
        self.leases.set_company(members > 1);
        let share = share(members);
        let mine: BTreeSet<u8> = self.leases.owned().union(&state.to_open).copied().collect();
        if free > 0 && mine.len() < share {
            let wanted = limit(share - mine.len());
            let rows = query(&client, CLAIM, &[&self.leases.holder(), &wanted]).await?;
            state.to_open.extend(rows.iter().filter_map(|row| u8::try_from(row.get::<_, i16>(0)).ok()));
        } else if mine.len() > share {
            // Those with the highest numbers: the first one stays where it is as long as it can.
            let surplus: BTreeSet<u8> = mine.iter().rev().take(mine.len() - share).copied().collect();
            state.to_open.retain(|bucket| !surplus.contains(bucket));
            self.lose(surplus.clone());
            state.leaving.extend(surplus);
        }
        Ok(())
    }

    /// Frees buckets that are given away, as soon as nothing of them is under way.
    async fn let_go(&self, state: &mut State) -> Result<(), Fault> {
        if state.leaving.is_empty() {
            return Ok(());
        }
        let drained: BTreeSet<u8> = state.leaving.difference(&self.busy()).copied().collect();
        if drained.is_empty() {
            return Ok(());
        }
        let buckets: Vec<i16> = drained.iter().copied().map(i16::from).collect();
        let client = self.writes.get().await?;
        query(&client, RELEASE, &[&self.leases.holder(), &buckets]).await?;
        drop(client);
        state.leaving.retain(|bucket| !drained.contains(bucket));
        if state.leaving.is_empty() { self.call_others().await } else { Ok(()) }
    }

    /// The buckets of destinations that have requests under way, or outcomes that are not stored yet.
    fn busy(&self) -> BTreeSet<u8> {
        let entries = self.directory.entries();
        let busy = entries.iter().filter(|entry| entry.status.has_flights());
        busy.map(|entry| bucket_of(entry.destination.id)).collect()
    }

    /// Begins the lanes of buckets that are ours, where nothing of an earlier lease is under way.
    async fn open(&self, state: &mut State) -> Result<(), Fault> {
        if state.to_open.is_empty() {
            return Ok(());
        }
        self.refresh().await?;
        let free: BTreeSet<u8> = state.to_open.difference(&self.busy()).copied().collect();
        let is_new = |id: &DestinationId| free.contains(&bucket_of(*id));
        let known: Vec<DestinationId> = self.directory.destination_ids().into_iter().filter(is_new).collect();
        self.refresh_health(&known).await?;
        if free.is_empty() {
            return Ok(());
        }
        // Nothing is handed over meanwhile: what was committed before the look at what waits is found by it, and what
        // comes later reaches lanes that know of it.
        let _still = self.conveyor.stop().await;
        self.leases.add(free.iter().copied());
        let work = match self.destinations_with_work().await {
            Ok(work) => work.into_iter().filter(is_new).collect::<Vec<_>>(),
            Err(fault) => {
                self.lose(free);
                return Err(fault);
            }
        };
        state.to_open.retain(|bucket| !free.contains(bucket));
        tracing::debug!(buckets = free.len(), lanes = work.len(), "lanes are ours from here on");
        self.tell(|listener| listener.lanes_gained(&work));
        Ok(())
    }

    /// Counts what waits, for the metrics of the replica that leads; those of the others show none. It takes a
    /// twentieth of the time at most.
    async fn count(&self, state: &mut State) -> Result<(), Fault> {
        let begun = Instant::now();
        if state.count_at.is_some_and(|at| begun < at) {
            return Ok(());
        }
        let mut counted = (0, 0);
        if self.leases.leads() {
            let client = self.reads.get().await?;
            let rows = query(&client, COUNT, &[]).await?;
            counted = rows.first().map_or((0, 0), |row| (row.get(0), row.get(1)));
        }
        self.metrics.moved(counted.0 - state.counted.0, counted.1 - state.counted.1);
        state.counted = counted;
        state.count_at = Some(Instant::now() + begun.elapsed() * 20);
        Ok(())
    }

    async fn call_others(&self) -> Result<(), Fault> {
        let client = self.writes.get().await?;
        let news = listen::buckets_moved(&self.leases);
        query(&client, listen::NOTIFY, &[&self.channel, &news]).await.map(drop)
    }

    /// Gives everything back, so that others need not wait for the leases to lapse.
    pub(super) async fn leave(&self) -> Result<(), Fault> {
        if !self.leases.are_shared() {
            return Ok(());
        }
        self.leases.expire();
        let me = self.leases.holder();
        let tx = Tx::begun(&self.writes).await?;
        tx.query("DELETE FROM members WHERE id = $1", &[&me]).await?;
        tx.query(FREE, &[&me]).await?;
        tx.query(listen::NOTIFY, &[&self.channel, &listen::buckets_moved(&self.leases)]).await?;
        tx.commit().await?;
        self.abandon(me).await
    }
}

const COUNT: &str = "SELECT (SELECT count(*) FROM waiting) + (SELECT count(*) FROM due),
    (SELECT count(*) FROM deliveries WHERE state = 3)";
const JOIN: &str = "INSERT INTO members (id, name, expires_at, keys)
    VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3), $4)
    ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at";
const RENEW: &str =
    "UPDATE members SET expires_at = clock_timestamp() + make_interval(secs => $2) WHERE id = $1
    RETURNING floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
const TIME: &str = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
const DEAD: &str = "SELECT id, name FROM members WHERE expires_at < clock_timestamp()";
const BURY: &str = "DELETE FROM members WHERE id = $1 AND expires_at < clock_timestamp() RETURNING 1";
// Also what belongs to nobody any more, however that came about.
const FREE: &str = "UPDATE buckets SET owner = NULL, epoch = epoch + 1
    WHERE owner = $1 OR (owner IS NOT NULL AND owner NOT IN (SELECT id FROM members)) RETURNING bucket";
const STANDING: &str = "SELECT (SELECT count(*) FROM members WHERE expires_at >= clock_timestamp()),
    (SELECT count(*) FROM buckets WHERE owner IS NULL)";
const CLAIM: &str = "UPDATE buckets SET owner = $1, epoch = epoch + 1 WHERE bucket IN
    (SELECT bucket FROM buckets WHERE owner IS NULL ORDER BY bucket LIMIT $2 FOR UPDATE SKIP LOCKED)
    RETURNING bucket";
const RELEASE: &str = "UPDATE buckets SET owner = NULL, epoch = epoch + 1
    WHERE owner = $1 AND bucket = ANY($2::smallint[])";
