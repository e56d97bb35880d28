//! Sentences and commands. Much of what they name was chosen by others: whoever pastes a command must not run anything else.

/// How many names are given of a list that can have any length.
pub(super) const NAMED: usize = 5;
/// A message is read at the worst hour.
const MESSAGE_LIMIT: usize = 640;
/// Half a command is worse than none: what does not fit is left out whole.
const REMEDY_LIMIT: usize = 1024;
/// A name, in a sentence.
const NAME_LIMIT: usize = 120;

/// A name as it is shown: in one line, and without what makes a terminal show something else than there is.
pub(super) fn shown(name: &str) -> String {
    let plain = |letter: char| letter.is_ascii_graphic() || letter == ' ' || letter.is_alphanumeric();
    let mut shown: String =
        name.chars().take(NAME_LIMIT).map(|letter| if plain(letter) { letter } else { '?' }).collect();
    if name.chars().nth(NAME_LIMIT).is_some() {
        shown.push('…');
    }
    shown
}

/// The first of a list, and how many more there are.
pub(super) fn list<T: AsRef<str>>(all: &[T]) -> String {
    let first: Vec<String> = all.iter().take(NAMED).map(|name| shown(name.as_ref())).collect();
    match all.len().saturating_sub(NAMED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// A message within its limit.
pub(super) fn bounded(message: String) -> String {
    if message.len() <= MESSAGE_LIMIT {
        return message;
    }
    let end = (0..=MESSAGE_LIMIT).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", message.get(..end).unwrap_or_default())
}

/// A line for a shell from options of ours and names of others, each of which stays one word. None when one cannot be written so:
/// RBAC takes nearly any text as a name.
pub(super) fn command(options: &[&str], names: &[&str]) -> Option<String> {
    let tame =
        |name: &&str| !name.is_empty() && !name.starts_with('-') && name.bytes().all(|byte| (32..127).contains(&byte));
    if !names.iter().all(tame) {
        return None;
    }
    let words = options.iter().chain(names).map(|word| shlex::try_quote(word).ok());
    let line = words.collect::<Option<Vec<_>>>()?.join(" ");
    (line.len() <= REMEDY_LIMIT).then_some(line)
}

/// `kubectl` in a namespace.
pub(super) fn kubectl(namespace: &str, options: &[&str], names: &[&str]) -> Option<String> {
    // The API server lets a namespace be called by letters, digits and dashes only.
    command(&[&["kubectl", "--namespace", namespace], options].concat(), names)
}

/// Commands for one paste, as many as fit.
pub(super) fn sequence(commands: impl IntoIterator<Item = String>) -> Option<String> {
    let mut line = String::new();
    for command in commands {
        let and = if line.is_empty() { "" } else { " && " };
        if line.len() + and.len() + command.len() > REMEDY_LIMIT {
            break;
        }
        line = line + and + &command;
    }
    (!line.is_empty()).then_some(line)
}

/// What to do in words, and the command for it where there is one.
pub(super) fn with(words: &str, command: Option<String>) -> String {
    command.map_or_else(|| words.to_owned(), |command| format!("{words}: {command}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_word_of_the_command() {
        let line = |name: &str| kubectl("shop", &["delete", "rolebinding"], &[name]);
        assert_eq!(line("a:b").as_deref(), Some("kubectl --namespace shop delete rolebinding a:b"));
        assert_eq!(line("x; rm -rf ~").as_deref(), Some("kubectl --namespace shop delete rolebinding 'x; rm -rf ~'"));
        assert_eq!(
            shlex::split(&line("it's $(id)").unwrap_or_default()).and_then(|words| words.last().cloned()).as_deref(),
            Some("it's $(id)")
        );
        for wild in ["--all", "", "a\nb", "a\u{202e}b"] {
            assert_eq!(line(wild), None, "{wild:?}");
        }
    }

    #[test]
    fn a_command_that_does_not_fit_is_left_out_whole() {
        let long = "x".repeat(REMEDY_LIMIT);
        assert_eq!(sequence(["kubectl a".to_owned(), long.clone()]).as_deref(), Some("kubectl a"));
        assert_eq!(sequence([long + "x"]), None);
    }

    #[test]
    fn what_is_shown_is_one_bounded_line() {
        assert_eq!(shown("a\nb\u{202e}c"), "a?b?c");
        assert_eq!(shown(&"ä".repeat(500)).chars().count(), NAME_LIMIT + 1);
        assert!(bounded("ä".repeat(5000)).len() <= MESSAGE_LIMIT + 3);
        assert_eq!(list(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
    }
}
