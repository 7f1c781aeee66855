-- name: GetBalance :one
select balance from accounts where id = $1;

-- name: SetBalance :exec
update accounts set balance = $2 where id = $1;

-- name: Withdraw :execrows
update accounts set balance = balance - $2 where id = $1 and balance >= $2;
