//! What goes wrong from outside: definitions, files and requests that are no good, clients that hang
//! up, disks that are full or damaged. Through the real binary each gets an error that names the
//! thing and the rule, nothing is half-written, and the server serves on.

mod backups;
mod damage;
mod definitions;
mod disk_full;
mod hang_ups;
mod limits;
#[path = "../support/process.rs"]
mod process;
mod rows;
mod scene;
mod start;
