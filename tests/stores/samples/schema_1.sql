BEGIN TRANSACTION;
CREATE TABLE "queueport_aside" (seq INTEGER PRIMARY KEY, id TEXT, reason TEXT NOT NULL, at REAL NOT NULL, record TEXT);
CREATE TABLE "queueport_counts" (
        state TEXT NOT NULL, queue TEXT NOT NULL, task TEXT NOT NULL, priority INTEGER NOT NULL, n INTEGER NOT NULL,
        PRIMARY KEY (state, queue, task, priority)
    ) WITHOUT ROWID;
INSERT INTO "queueport_counts" VALUES('dead','default','app.send',0,1);
INSERT INTO "queueport_counts" VALUES('queued','default','app.send',0,1);
INSERT INTO "queueport_counts" VALUES('retrying','default','app.send',0,1);
INSERT INTO "queueport_counts" VALUES('running','default','app.send',0,1);
INSERT INTO "queueport_counts" VALUES('scheduled','default','app.send',0,1);
INSERT INTO "queueport_counts" VALUES('succeeded','default','app.send',0,1);
CREATE TABLE "queueport_jobs" (
        seq INTEGER PRIMARY KEY,
        "id" TEXT NOT NULL UNIQUE,
        "task" TEXT NOT NULL,
        "queue" TEXT NOT NULL,
        "state" TEXT NOT NULL,
        "priority" INTEGER NOT NULL DEFAULT 0,
        "group" TEXT,
        "key" TEXT,
        "rev" TEXT NOT NULL DEFAULT '',
        "life" INTEGER NOT NULL DEFAULT 1,
        "attempts" INTEGER NOT NULL DEFAULT 0,
        "failures" INTEGER NOT NULL DEFAULT 0,
        "crashes" INTEGER NOT NULL DEFAULT 0,
        "token" TEXT,
        "wake_at" REAL,
        "sent" INTEGER NOT NULL DEFAULT 0,
        "sent_at" REAL,
        "sends" INTEGER NOT NULL DEFAULT 0,
        "cancel_requested" INTEGER NOT NULL DEFAULT 0,
        "cancel_interrupts" INTEGER NOT NULL DEFAULT 1,
        "interrupted" INTEGER NOT NULL DEFAULT 0,
        "buried" INTEGER NOT NULL DEFAULT 0,
        "enqueued_at" REAL NOT NULL DEFAULT 0.0,
        "queued_at" REAL,
        "run_at" REAL,
        "expires_at" REAL,
        "started_at" REAL,
        "finished_at" REAL,
        "unknown_since" REAL,
        "worker" TEXT,
        "reason" TEXT,
        "v" INTEGER NOT NULL,
        "headers" TEXT NOT NULL DEFAULT '{}',
        "options" TEXT NOT NULL DEFAULT '{}',
        "defaults" TEXT NOT NULL DEFAULT '{}',
        "progress" TEXT,
        "errors" TEXT NOT NULL DEFAULT '[]',
        error TEXT,       -- type of the newest error
        error_name TEXT,  -- the same without its module
        "payload" BLOB NOT NULL,
        "result" BLOB
    );
INSERT INTO "queueport_jobs" VALUES(1,'queued','app.send','default','queued',0,NULL,'k','99f13ab3da7247c38729dd74db6e5f45',1,0,0,0,NULL,NULL,1,1700000000.0,0,0,1,0,0,1700000000.0,1700000000.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1,'{"trace":"\u00fc"}','{"timeout":1.5}','{}',NULL,'[]',NULL,NULL,X'00FF',NULL);
INSERT INTO "queueport_jobs" VALUES(2,'scheduled','app.send','default','scheduled',0,NULL,NULL,'38677307c1984d7f9d15e6c66b9ed9b2',1,0,0,0,NULL,1700000050.0,0,NULL,0,0,1,0,0,1700000000.0,NULL,1700000050.0,NULL,NULL,NULL,NULL,NULL,NULL,1,'{}','{}','{}',NULL,'[]',NULL,NULL,X'7B2261726773223A5B315D7D',NULL);
INSERT INTO "queueport_jobs" VALUES(3,'running','app.send','default','running',0,NULL,NULL,'050670f1c3c64e64be37ed64b2ee63ef',1,1,0,0,'token-1',1700000030.0,1,1700000000.0,0,0,1,0,0,1700000000.0,1700000000.0,NULL,NULL,1700000000.0,NULL,NULL,'worker',NULL,1,'{}','{}','{}',NULL,'[]',NULL,NULL,X'7B2261726773223A5B315D7D',NULL);
INSERT INTO "queueport_jobs" VALUES(4,'retrying','app.send','default','retrying',0,NULL,NULL,'54dccc763df64d1fa6749c6866fa9369',1,1,1,0,'token-1',1700000007.0,1,1700000000.0,0,0,1,0,0,1700000000.0,1700000000.0,NULL,NULL,1700000000.0,NULL,NULL,'worker',NULL,1,'{}','{}','{}',NULL,'[{"type":"builtins.ValueError","message":"it was refused","traceback":"Traceback ...","at":"2023-11-14T22:13:20+00:00","attempt":1}]','builtins.ValueError','ValueError',X'7B2261726773223A5B315D7D',NULL);
INSERT INTO "queueport_jobs" VALUES(5,'succeeded','app.send','default','succeeded',0,NULL,NULL,'aed3cd9e2c9b477a9154b3ca4b7dad14',1,1,0,0,'token-1',1700086400.0,1,1700000000.0,0,0,1,0,0,1700000000.0,1700000000.0,NULL,NULL,1700000000.0,1700000000.0,NULL,'worker',NULL,1,'{}','{}','{}',NULL,'[]',NULL,NULL,X'7B2261726773223A5B315D7D',X'31');
INSERT INTO "queueport_jobs" VALUES(6,'dead','app.send','default','dead',0,NULL,NULL,'7bc8a599dadc431aa1acf27cbbf54d46',1,1,1,0,'token-1',1702592000.0,1,1700000000.0,0,0,1,0,0,1700000000.0,1700000000.0,NULL,NULL,1700000000.0,1700000000.0,NULL,'worker',NULL,1,'{}','{}','{}',NULL,'[{"type":"builtins.ValueError","message":"it was refused","traceback":"Traceback ...","at":"2023-11-14T22:13:20+00:00","attempt":1}]','builtins.ValueError','ValueError',X'7B2261726773223A5B315D7D',NULL);
CREATE TABLE "queueport_meta" (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "queueport_meta" VALUES('failed',2);
INSERT INTO "queueport_meta" VALUES('processed',2);
INSERT INTO "queueport_meta" VALUES('schema',1);
CREATE TABLE "queueport_workers" (
        name TEXT PRIMARY KEY, queues TEXT NOT NULL, tasks TEXT NOT NULL, heartbeat_at REAL NOT NULL,
        until REAL NOT NULL
    ) WITHOUT ROWID;
INSERT INTO "queueport_workers" VALUES('worker','["default"]','["app.send"]',1700000000.0,1700001000.0);
CREATE UNIQUE INDEX "queueport_key" ON "queueport_jobs" (task, key) WHERE key IS NOT NULL AND state IN ('scheduled', 'queued', 'running', 'retrying');
CREATE INDEX "queueport_due" ON "queueport_jobs" (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX "queueport_ready" ON "queueport_jobs" (queue, task, priority, queued_at, seq, expires_at, unknown_since, v)
    WHERE state = 'queued';
CREATE INDEX "queueport_sent" ON "queueport_jobs" (queue, priority, sent_at) WHERE state = 'queued' AND sent = 1;
CREATE INDEX "queueport_listed" ON "queueport_jobs" (state, queue, task, seq, finished_at);
CREATE INDEX "queueport_errors" ON "queueport_jobs" (state, queue, task, error_name, seq, error, finished_at)
    WHERE error_name IS NOT NULL;
CREATE INDEX "queueport_newer" ON "queueport_jobs" (v) WHERE v > 1;
CREATE TRIGGER "queueport_come" AFTER INSERT ON "queueport_jobs" BEGIN INSERT INTO "queueport_counts" (state, queue, task, priority, n) VALUES (new.state, new.queue, new.task, new.priority, 1)
    ON CONFLICT DO UPDATE SET n = n + 1; END;
CREATE TRIGGER "queueport_go" AFTER DELETE ON "queueport_jobs" BEGIN UPDATE "queueport_counts" SET n = n - 1
    WHERE state = old.state AND queue = old.queue AND task = old.task AND priority = old.priority; END;
CREATE TRIGGER "queueport_move" AFTER UPDATE OF state, queue, task, priority ON "queueport_jobs"
    WHEN (old.state, old.queue, old.task, old.priority) <> (new.state, new.queue, new.task, new.priority)
    BEGIN UPDATE "queueport_counts" SET n = n - 1
    WHERE state = old.state AND queue = old.queue AND task = old.task AND priority = old.priority; INSERT INTO "queueport_counts" (state, queue, task, priority, n) VALUES (new.state, new.queue, new.task, new.priority, 1)
    ON CONFLICT DO UPDATE SET n = n + 1; END;
COMMIT;
