//! Starts what happens by itself: delivery threads with what waits, replays, and the janitor.

use std::sync::Arc;

use anyhow::Context;

use super::StopStages;
use super::couriers::Couriers;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::engine::janitor::{Janitor, JanitorOptions};
use crate::engine::rules::ShardOptions;
use crate::engine::shard::StopSignals;
use crate::engine::{Engine, RunningEngine};
use crate::shutdown::{OnExit, Tasks};
use crate::store::Store;

pub(super) async fn start_engine(
    config: &Config,
    (store, clock): (&Arc<dyn Store>, &SharedClock),
    couriers: &Couriers,
    (tasks, stages): (&Tasks, &StopStages),
) -> anyhow::Result<()> {
    let engine = Engine::new(config.delivery.thread_count(), config.delivery.max_bytes_waiting);
    store.listen(engine.listener());
    let backlog = store.destinations_with_work().await?;
    let options = ShardOptions {
        max_in_flight: config.delivery.max_in_flight,
        max_bytes_in_flight: config.delivery.max_bytes_in_flight,
        circuit_opens_after: config.delivery.circuit_opens_after,
        window: config.delivery.window,
        best_effort_window: config.delivery.best_effort_window,
        window_bytes: config.delivery.window_bytes,
        stop_deadline: config.delivery.shutdown_deadline,
        delivery_enabled: config.delivery.enabled,
        semaphor_enabled: config.delivery.enterprise_telemetry_enabled,
    };
    let threads = config.delivery.thread_count();
    let each_keeps = config.delivery.max_kept_connections / threads;
    let couriers = (0..threads).map(|_| couriers.make_keeping(each_keeps));
    let couriers = couriers.collect::<Result<Vec<_>, _>>()?;
    let shards = engine.shards((store, clock), options, &backlog, couriers);
    // Where nothing is delivered replays wait, too.
    if config.delivery.enabled {
        let semaphor_enabled = config.delivery.enterprise_telemetry_enabled;
        let replayer = engine.replayer(store, clock, semaphor_enabled);
        tasks.spawn("replayer", OnExit::StopProcess, replayer.run(tasks.soft()));
    }
    // Lanes stop after the last call has ended: an event that was accepted late must still reach them.
    let stop = StopSignals { soft: stages.calls_ended.clone(), hard: tasks.hard() };
    start_janitor(config, store, clock, tasks);
    let running = RunningEngine::start(shards.into_iter(), &stop).context("starting the delivery threads")?;
    // Cancelled when the last of the tasks below has dropped it.
    let lanes_ended = Arc::new(stages.lanes_ended.clone().drop_guard());
    for end in running.ends() {
        let (tasks_to_fail, lanes_ended) = (tasks.clone(), Arc::clone(&lanes_ended));
        tasks.spawn("engine", OnExit::StopProcess, async move {
            if let Err(reason) = end.await {
                tasks_to_fail.fail("engine", &reason);
            }
            drop(lanes_ended);
        });
    }
    Ok(())
}

fn start_janitor(config: &Config, store: &Arc<dyn Store>, clock: &SharedClock, tasks: &Tasks) {
    let plans = config.plans.by_name.iter();
    let options = JanitorOptions {
        retention: config.retention,
        plans: plans.clone().filter_map(|(name, plan)| Some((name.clone(), plan.retention?))).collect(),
        default_plan: config.plans.default.name.clone(),
        known_plans: plans.map(|(name, _)| name.clone()).collect(),
    };
    let janitor = Janitor::new(Arc::clone(store), Arc::clone(clock), options);
    tasks.spawn("janitor", OnExit::StopProcess, janitor.run(tasks.soft()));
}
