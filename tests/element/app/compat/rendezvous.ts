// Login by QR code, whose older forms the engine dropped; the UI imports them, and nothing here uses them.
export * from "engine/src/rendezvous";
export enum LegacyRendezvousFailureReason {
    UserDeclined = "user_declined",
    Unknown = "unknown",
    Expired = "expired",
    UserCancelled = "user_cancelled",
    OtherDeviceNotSignedIn = "other_device_not_signed_in",
    OtherDeviceAlreadySignedIn = "other_device_already_signed_in",
    InvalidCode = "invalid_code",
    UnsupportedAlgorithm = "unsupported_algorithm",
    DataMismatch = "data_mismatch",
    UnsupportedTransport = "unsupported_transport",
    HomeserverLacksSupport = "homeserver_lacks_support",
}
export class MSC3906Rendezvous {}
export class MSC3903ECDHv2RendezvousChannel {}
export class MSC3886SimpleHttpRendezvousTransport {}
