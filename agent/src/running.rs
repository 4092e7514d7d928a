//! The shares that run on this machine, as other processes of ours see them.
//!
//! Each process that shares holds a lock for as long as it lives, and keeps one small file beside
//! it that says how its share is: `shares/live/ID.json`, without any secret. Whoever can take the
//! lock knows that the process is gone, whatever ended it; a process id would not tell, since systems
//! use them again. A file `ID.stop` asks the process to end. Nothing here knows how shares work.

mod place;
mod process;
mod record;

pub use self::place::{
    Registration, RunId, Seen, ask_to_stop, clean, is_alive, is_asked_to_stop, list, read,
};
pub use self::process::Process;
pub use self::record::{Ending, Mode, RunningShare, State, Visitors};
