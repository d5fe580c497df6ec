//! Asks before what can't be undone. Where nobody is there to be asked, it is refused unless `--yes` was given.

use std::io::IsTerminal as _;

use super::Failure;

/// Asks on the terminal, under what it is about. `what` completes "this …", and `question` ends before its mark.
pub(super) fn ask(about: &str, what: &str, question: &str, hint: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        let message = format!("this {what} for good, and nobody is there to be asked");
        return Err(Failure::new("NOT_CONFIRMED", message).hint(hint));
    }
    eprint!("{about}\n{question}? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| Failure::new("NOT_CONFIRMED", error.to_string()))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new("NOT_CONFIRMED", "nothing was changed")),
    }
}
