//! HTTP end to end, over fake actors.
