CREATE TABLE IF NOT EXISTS ttp_rule (
    rule_id VARCHAR(255) NOT NULL PRIMARY KEY,
    rule_version INT NOT NULL,
    source_path VARCHAR(255) NOT NULL,
    yaml_content MEDIUMTEXT NOT NULL,
    updated_at DATETIME(6) NOT NULL,
    updated_by VARCHAR(255) NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
