use std::fmt;

use super::Severity;

/// Declares the codes once: variant, stable name, severity, page.
macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $severity:ident;)+) => {
        /// The kinds of finding. Once published, a name keeps its meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Code {
            /// Every code, in the order in which a text is checked.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable name.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// The default severity of this kind.
            pub(crate) const fn severity(self) -> Severity {
                match self {
                    $(Self::$variant => Severity::$severity,)+
                }
            }

            /// The page that explains it, in Markdown.
            pub(crate) const fn explanation(self) -> &'static str {
                match self {
                    $(Self::$variant => include_str!(concat!("pages/", $name, ".md")),)+
                }
            }
        }
    };
}

codes! {
    /// More bytes than the limit.
    TooLarge = "too-large", Error;
    /// Not UTF-8.
    Encoding = "encoding", Error;
    /// A character that a reader refuses, or that only some read as the end of a line.
    Character = "character", Error;
    /// Not YAML.
    Syntax = "syntax", Error;
    /// A tab where YAML needs spaces.
    Tab = "tab", Error;
    /// YAML that its versions or their readers read differently.
    Dialect = "dialect", Error;
    /// Nested deeper than the limit.
    TooDeep = "too-deep", Error;
    /// More values than the limit, with aliases expanded.
    TooManyValues = "too-many-values", Error;
    /// More than one document.
    SeveralDocuments = "several-documents", Error;
    /// The document is not a mapping.
    NotAMapping = "not-a-mapping", Error;
    /// A rule of another program.
    ForeignFormat = "foreign-format", Error;
    /// An alias of nothing, or of a value that contains it.
    Alias = "alias", Error;
    /// A tag.
    Tag = "tag", Error;
    /// A merge key.
    MergeKey = "merge-key", Error;
    /// A key that is not a string.
    KeyNotString = "key-not-string", Error;
    /// A key that occurs twice in one mapping.
    DuplicateKey = "duplicate-key", Error;
    /// A plain value that YAML 1.1 and 1.2 read differently.
    AmbiguousValue = "ambiguous-value", Error;
    /// A number that is not finite, or does not fit into 64 bits.
    Number = "number", Error;
    /// A mandatory field is missing.
    MissingField = "missing-field", Error;
    /// A value of the wrong type.
    WrongType = "wrong-type", Error;
    /// An empty list that must not be empty.
    EmptyList = "empty-list", Error;
    /// A number outside of the field's range.
    OutOfRange = "out-of-range", Error;
    /// Not a rule id.
    RuleId = "rule-id", Error;
    /// A sub-technique that does not belong to its technique.
    SubTechnique = "sub-technique", Error;
    /// A key that the daemon does not know.
    UnknownKey = "unknown-key", Warning;
    /// An id that is not shaped like ATT&CK's.
    AttackId = "attack-id", Warning;
    /// An id that ATT&CK does not have.
    AttackUnknown = "attack-unknown", Warning;
    /// A technique that ATT&CK has revoked.
    AttackRevoked = "attack-revoked", Warning;
    /// A technique that ATT&CK advises against.
    AttackDeprecated = "attack-deprecated", Warning;
    /// A technique with a tactic that it does not belong to.
    AttackTactic = "attack-tactic", Warning;
    /// Ids of two matrices in one rule.
    AttackDomain = "attack-domain", Warning;
    /// A pattern that Python's `re` does not compile.
    Pattern = "pattern", Warning;
    /// A pattern that takes very long on some texts.
    Backtracking = "backtracking", Warning;
    /// A pattern that means something else than it seems.
    SuspiciousPattern = "suspicious-pattern", Warning;
    /// The same rule id in two files.
    DuplicateId = "duplicate-id", Warning;
    /// A text that differs from the table's, without a higher version.
    VersionNotRaised = "version-not-raised", Warning;
    /// A file that the master ignores because of its name.
    FileName = "file-name", Warning;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Code {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name).ok_or(())
    }
}
