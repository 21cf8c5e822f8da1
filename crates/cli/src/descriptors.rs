//! How many descriptors the process may have.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Lets the process, and what it becomes, have as many as its user may: guests open files in shares, and a shell's 1024 are
/// for programs that cannot count further.
pub(crate) fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it there are fewer, and a guest that wants more is told so.
    let _ = setrlimit(Resource::Nofile, limit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_what_the_user_may_have() {
        raise_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
