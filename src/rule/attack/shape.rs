//! The shapes of ATT&CK's ids.

/// `TA0007`
pub(in crate::rule) fn is_tactic(id: &str) -> bool {
    id.strip_prefix("TA").is_some_and(|number| digits(number, 4))
}

/// `T1083`, or a sub-technique's.
pub(in crate::rule) fn is_technique(id: &str) -> bool {
    id.strip_prefix('T').is_some_and(|number| digits(number, 4)) || is_sub_technique(id)
}

/// `T1548.001`
pub(in crate::rule) fn is_sub_technique(id: &str) -> bool {
    let parts = id.strip_prefix('T').and_then(|numbers| numbers.split_once('.'));
    parts.is_some_and(|(technique, sub)| digits(technique, 4) && digits(sub, 3))
}

fn digits(text: &str, count: usize) -> bool {
    text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())
}
