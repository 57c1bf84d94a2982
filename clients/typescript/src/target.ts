/** How the server is reached: the target and TLS. */

import { type ChannelCredentials, type ChannelOptions, credentials, Metadata } from "@grpc/grpc-js";

/** Whom to trust and who we are, for `https://` targets. All in PEM. */
export interface Tls {
  /** The certificate authorities to trust; without them, those of Node. */
  ca?: Buffer;
  /** The certificate chain to present to servers that ask for one, with its private key. */
  certificate?: Buffer;
  key?: Buffer;
  /** The name to expect in the server's certificate instead of the target's host. */
  serverName?: string;
}

export interface Target {
  address: string;
  credentials: ChannelCredentials;
  options: ChannelOptions;
}

/**
 * How the channel behaves: calls are spread over all addresses of the name, and a server that comes back is found
 * within two seconds instead of two minutes.
 */
const OPTIONS: ChannelOptions = {
  "grpc.service_config": JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }),
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2000,
  "grpc.keepalive_time_ms": 20_000,
  "grpc.keepalive_timeout_ms": 20_000,
};

/** Reads a target, `http://HOST:PORT` or `https://HOST:PORT`. */
export function readTarget(target: string, tls: Tls | undefined): Target {
  const url = URL.canParse(target) ? new URL(target) : undefined;
  if (url === undefined || !["http:", "https:"].includes(url.protocol) || url.hostname === "") {
    throw new TypeError(`target ${JSON.stringify(target)} has to be http://HOST:PORT or https://HOST:PORT`);
  }
  const address = `dns:///${url.hostname}:${url.port || (url.protocol === "https:" ? 443 : 80)}`;
  if (url.protocol === "http:") {
    if (tls !== undefined) {
      throw new TypeError("tls is given but the target is http://; use https://");
    }
    return { address, credentials: credentials.createInsecure(), options: OPTIONS };
  }
  if ((tls?.certificate === undefined) !== (tls?.key === undefined)) {
    throw new TypeError("tls.certificate and tls.key have to be given together");
  }
  const options = tls?.serverName === undefined ? OPTIONS : { ...OPTIONS, "grpc.ssl_target_name_override": tls.serverName };
  return { address, credentials: credentials.createSsl(tls?.ca, tls?.key, tls?.certificate), options };
}

/** What each call carries to say who is calling. */
export function metadataOf(token: string | undefined): Metadata {
  const metadata = new Metadata();
  if (token !== undefined) {
    if (!/^[\x20-\x7e]+$/.test(token)) {
      throw new TypeError("token has characters that a header can't carry");
    }
    metadata.set("authorization", `Bearer ${token}`);
  }
  return metadata;
}
