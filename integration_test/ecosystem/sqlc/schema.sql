create table accounts (id bigint primary key, balance bigint not null check (balance >= 0));
