"""The DynamoDB store: records, indexes and counts in one table."""
