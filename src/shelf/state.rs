//! What hosts have set on a slot over the wire: config string, MAC mask list, reservation.
//!
//! Not here: keeping it (`appliance::state`), or who may set it (`slot`).
//! Invariant: every list is at most as long as the wire can tell (AoEr11, sections 3.2 to 3.4), and no address is in a
//! list twice.

use crate::limits;
use crate::protocol::Mac;
use arrayvec::ArrayVec;

/// Addresses, each once.
pub type MacList = ArrayVec<Mac, { limits::MAC_LIST }>;
/// A config string: any bytes.
pub type ConfigString = ArrayVec<u8, { limits::CONFIG_STRING }>;

/// The state of one slot that hosts can change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotState {
    /// The config string; empty if none was set.
    pub config_string: ConfigString,
    /// Who may talk to the slot; empty for everybody.
    pub mask: MacList,
    /// Who may issue ATA commands; empty for everybody.
    pub reserved: MacList,
}

impl SlotState {
    /// Nothing but this config string; cut at [`limits::CONFIG_STRING`] bytes.
    #[must_use]
    pub fn with_config_string(text: &[u8]) -> Self {
        let config_string = text.iter().take(limits::CONFIG_STRING).copied().collect();
        Self { config_string, ..Self::default() }
    }
}
