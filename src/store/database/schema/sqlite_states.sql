CREATE TABLE IF NOT EXISTS ttp_rule_state (
    rule_id VARCHAR NOT NULL PRIMARY KEY,
    state VARCHAR NOT NULL,
    confidence_max FLOAT,
    expires_at DATETIME,
    reason VARCHAR,
    set_by VARCHAR,
    set_at DATETIME NOT NULL
);
