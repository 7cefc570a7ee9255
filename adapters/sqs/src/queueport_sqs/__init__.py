"""Amazon SQS as a backend of queueport, and DynamoDB as a job store, through botocore. For `get_queue`.

transport   carries jobs: `sqs://REGION`
dynamodb    keeps records: `dynamodb://REGION/TABLE`
client      what both use to call AWS: it limits the time of a call and explains errors
"""
