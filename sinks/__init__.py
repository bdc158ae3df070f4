"""From the public topics into ClickHouse: every record becomes exactly one row, or is counted as skipped."""
