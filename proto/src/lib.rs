//! The step protocol between the router and a shard, generated from `shard.proto`.
//!
//! Used by the router's `shard::grpc` and the backend's `service` only: everything further
//! inside speaks its own types. There is no text in this protocol, only token ids.
#![forbid(unsafe_code)]

pub mod shard {
    //! Messages, client and server of `quern.shard.v1`.
    #![allow(clippy::all)]
    tonic::include_proto!("quern.shard.v1");
}
