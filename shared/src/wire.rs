//! protobuf to domain and back.
