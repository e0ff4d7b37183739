//! The words that tell who is spoken to, and whether what is said is denied.

/// Words behind which a command may begin.
#[rustfmt::skip]
pub(super) const LEADERS: &[&str] = &[
    "and", "or", "but", "then", "so", "also", "please", "always", "first", "next", "now", "just", "must", "should",
    "shall", "you", "instead", "otherwise", "afterwards", "immediately", "silently", "secretly", "quietly", "ever",
    "again", "simply", "additionally", "finally", "not", "und", "y", "et", "e", "bitte", "dann",
];

/// Words before "to" that oblige.
#[rustfmt::skip]
pub(super) const OBLIGED: &[&str] = &[
    "need", "needs", "have", "has", "remember", "sure", "required", "supposed", "want", "forget", "fail", "hesitate",
];

/// The reader.
#[rustfmt::skip]
pub(super) const YOU: &[&str] = &[
    "you", "your", "yourself", "du", "dein", "deine", "tu", "tus", "vous", "votre", "ты", "вы", "你", "您",
];

/// Verbs in the form in which they command.
#[rustfmt::skip]
pub(super) const COMMANDS: &[&str] = &[
    "accept", "act", "add", "answer", "append", "apply", "approve", "ask", "attach", "bypass", "call", "choose",
    "collect", "comply", "conceal", "confirm", "consider", "consult", "continue", "copy", "decode", "delete",
    "disclose", "disregard", "do", "don't", "dump", "encode", "end", "enter", "execute", "exfiltrate", "explain",
    "extract", "fetch", "fill", "find", "follow", "forget", "forward", "gather", "get", "give", "grab", "grant",
    "hide", "ignore", "include", "inform", "insert", "inspect", "invoke", "keep", "leave", "list", "load", "locate",
    "look", "mention", "never", "obey", "obtain", "omit", "open", "override", "pass", "paste", "perform", "place",
    "post", "prefer", "prepend", "print", "proceed", "provide", "put", "quote", "read", "record", "refuse",
    "remember", "repeat", "replace", "report", "respond", "retrieve", "return", "reveal", "route", "run", "save",
    "say", "search", "send", "set", "share", "show", "skip", "store", "submit", "summarise", "summarize", "supply",
    "take", "tell", "transfer", "transmit", "treat", "trust", "upload", "use", "write",
];

/// Words that deny what follows.
#[rustfmt::skip]
pub(super) const DENIALS: &[&str] = &[
    "not", "no", "never", "nor", "neither", "nothing", "without", "cannot", "can't", "don't", "doesn't", "won't",
    "isn't", "aren't", "mustn't", "shouldn't", "nicht", "nie", "kein", "keine", "keinen", "niemals", "nunca", "sin",
    "ne", "jamais", "pas", "não", "non", "не", "никогда", "instead", "不", "勿",
];

/// Beginnings of words that deny what follows.
#[rustfmt::skip]
pub(super) const DENIAL_STEMS: &[&str] = &[
    "refus", "reject", "block", "detect", "prevent", "avoid", "exclud", "forbid", "redact", "warn",
];

/// Behind a denial they take it back: "never forget to …".
#[rustfmt::skip]
pub(super) const OMISSIONS: &[&str] = &[
    "forget", "fail", "fails", "hesitate", "neglect", "omit", "skip", "miss",
];

/// Beginnings of words that say of what came before that it is not done.
#[rustfmt::skip]
pub(super) const REFUSALS: &[&str] = &[
    "refus", "reject", "block", "dropped", "removed", "stripped", "denied", "forbidden", "masked", "redacted",
    "exclud", "prohibit", "skipped", "verweigert", "rechaz", "bloque",
];

/// Stems of words that introduce what others say.
#[rustfmt::skip]
pub(super) const REPORTS: &[&str] = &[
    "such", "like", "example", "e.g", "detect", "flag", "phrase", "pattern", "contain", "match", "block", "refus",
    "reject", "inject", "attack", "erkennt",
];
