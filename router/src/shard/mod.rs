//! The link to the shards. `grpc` is the only place with protobuf types.
