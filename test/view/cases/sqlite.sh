sqlite3 data/db 'create table t(a, b); insert into t values (1, "x"), (2, "y"); update t set b = "z" where a = 2; select * from t; vacuum; pragma integrity_check'
sqlite3 data/db 'pragma journal_mode=wal; insert into t select a + 2, b from t; select count(*) from t; pragma journal_mode=delete'; ls data | grep db; rm data/db
