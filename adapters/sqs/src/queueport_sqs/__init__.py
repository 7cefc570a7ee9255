"""Amazon SQS as a backend of queueport, and DynamoDB as a job store, by botocore. For `get_queue`.

transport   carries jobs: `sqs://REGION`
dynamodb    keeps records: `dynamodb://REGION/TABLE`
client      what both make of AWS: one client for a process, calls that end in time, errors in one sentence
"""
