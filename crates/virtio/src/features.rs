//! Feature bits that belong to virtio and its rings, whatever the device (virtio 1.2, section 6).

/// `VIRTIO_F_INDIRECT_DESC`: descriptors may refer to tables of descriptors (2.7.5.3).
pub const INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_F_EVENT_IDX`: notifications and interrupts are asked for by ring position (2.7.7, 2.7.10).
pub const EVENT_IDX: u64 = 1 << 29;
/// `VIRTIO_F_VERSION_1`: the driver is not a legacy one. Required.
pub const VERSION_1: u64 = 1 << 32;

/// What is offered for every device.
pub const COMMON: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;

/// The bits that belong to device types: 0 to 23 and 50 to 63. The others are virtio's own (2.2).
pub const DEVICE_SPECIFIC: u64 = 0x00ff_ffff | !((1 << 50) - 1);
