CREATE TABLE IF NOT EXISTS ttp_rule_state (
    rule_id VARCHAR(255) NOT NULL PRIMARY KEY,
    state VARCHAR(255) NOT NULL,
    confidence_max FLOAT,
    expires_at DATETIME(6),
    reason VARCHAR(255),
    set_by VARCHAR(255),
    set_at DATETIME(6) NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
