//! Starts what answers callers and probes, and says when it stops.

use std::sync::Arc;

use tokio::net::TcpListener;

use super::StopStages;
use super::entrance::Entrance;
use crate::config::{Config, ReflectionAccess};
use crate::control::Control;
use crate::control::denials::DenialRecorder;
use crate::grpc::health::HealthState;
use crate::grpc::options::{ConnectionOptions, Limits, ListenerOptions, Reflection};
use crate::grpc::server::{GrpcServer, serve_health};
use crate::metrics::Metrics;
use crate::shutdown::{OnExit, Tasks};

fn limits(config: &Config) -> Limits {
    let (limits, connection) = (&config.limits, &config.limits.connection);
    Limits {
        max_message_bytes: limits.message_bytes,
        max_emit_streams: (limits.emit_streams, limits.emit_streams_per_caller),
        max_watches: (limits.watches, limits.watches_per_organization),
        max_open_streams: (limits.health_watches, limits.health_watches_per_address),
        reflection: match config.listen.reflection {
            ReflectionAccess::Open => Reflection::Open,
            ReflectionAccess::Authenticated => Reflection::Authenticated,
            ReflectionAccess::Off => Reflection::Off,
        },
        call_default: limits.call_default,
        recheck: config.auth.reload,
        connection: ConnectionOptions {
            streams: connection.concurrent_streams,
            calls: connection.concurrent_calls,
            header_bytes: connection.header_bytes,
            handshake_timeout: connection.handshake_timeout,
            idle: connection.idle,
            age: connection.age,
            call_max: limits.call_max,
            keepalive_interval: connection.keepalive_interval,
            keepalive_timeout: connection.keepalive_timeout,
            control_frames: connection.control_frames,
        },
        listener: ListenerOptions {
            connections: connection.connections,
            connections_per_address: connection.connections_per_address,
            handshakes: connection.handshakes,
            handshakes_per_address: connection.handshakes_per_address,
        },
    }
}

pub(super) fn serve(
    config: &Config,
    (control, entrance, denials, metrics): (Arc<Control>, Entrance, Arc<DenialRecorder>, &Metrics),
    (grpc_listener, health_listener): (TcpListener, TcpListener),
    (tasks, stages): (&Tasks, &StopStages),
) {
    let health = HealthState::new();
    let server = GrpcServer::new(control, health.clone(), limits(config))
        .with_metrics(metrics.rpc.clone())
        .with_denials(denials)
        .with_authenticator(entrance.authenticator)
        .with_tls(entrance.tls);
    let (stop, ended, drain) = (tasks.soft(), stages.calls_ended.clone(), health.clone());
    let (notice, tasks_to_fail) = (config.listen.stop_notice, tasks.clone());
    let hard = tasks.hard();
    tasks.spawn("grpc", OnExit::StopProcess, async move {
        // Whoever asks for health learns of the stop before calls are refused.
        let stopping = async move {
            stop.cancelled().await;
            drain.set_ready(false);
            tokio::time::sleep(notice).await;
        };
        tokio::select! {
            served = server.serve(grpc_listener, stopping) => if let Err(error) = served {
                tasks_to_fail.fail("grpc", &error.to_string());
            },
            () = hard.cancelled() => {}
        }
        // However the server ended, no call comes any more.
        ended.cancel();
    });
    // Probes are answered until the lanes have drained: the process lives for so long.
    let probe_limits = limits(config);
    let (probes, tasks_to_fail, drained) = (health.clone(), tasks.clone(), stages.lanes_ended.clone());
    tasks.spawn("health", OnExit::StopProcess, async move {
        if let Err(error) =
            serve_health(probes, health_listener, probe_limits, drained.cancelled_owned()).await
        {
            tasks_to_fail.fail("health", &error.to_string());
        }
    });
    health.set_started(true);
    health.set_ready(true);
    tracing::info!("ready");
}
