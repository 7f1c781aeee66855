create table instances (pid bigint primary key, started_at timestamptz not null default now());
