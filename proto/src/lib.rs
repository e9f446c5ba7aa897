//! The wire contract: generated messages, clients and servers of `trunkline.v1` and `trunkline.dataplane.v1`.
//!
//! Nothing here decides anything; what a value means is in `trunkline-shared`.

mod redact;

/// The public API.
pub mod v1 {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::allow_attributes_without_reason,
        reason = "generated from documented proto files"
    )]
    tonic::include_proto!("trunkline.v1");
}

/// Between control plane and workers.
pub mod dataplane {
    /// Version 1.
    pub mod v1 {
        #![allow(
            missing_docs,
            clippy::all,
            clippy::allow_attributes_without_reason,
            reason = "generated from documented proto files"
        )]
        tonic::include_proto!("trunkline.dataplane.v1");
    }
}

/// Serialised `FileDescriptorSet` of the whole contract, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
