CREATE TABLE rulesyncd_version (
    name VARCHAR NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    changed_at DATETIME NOT NULL
);
