CREATE TABLE IF NOT EXISTS ttp_rule (
    rule_id VARCHAR NOT NULL PRIMARY KEY,
    rule_version INTEGER NOT NULL,
    source_path VARCHAR NOT NULL,
    yaml_content TEXT NOT NULL,
    updated_at DATETIME NOT NULL,
    updated_by VARCHAR NOT NULL
);
