package hashkey_test

import (
	"fmt"

	"github.com/pgadvisory/pgadvisory/hashkey"
)

func ExampleName() {
	fmt.Println(hashkey.Name("some-lock-name").Int64())
	// Output: 8131770842228927322
}

func ExampleNamespace() {
	const (
		orders = hashkey.Namespace("orders")
		users  = hashkey.Namespace("users")
	)
	fmt.Println(hashkey.Compare(orders.ID(42), users.ID(42)) == 0)
	fmt.Println(hashkey.Compare(orders.ID(42), orders.Name("42")) == 0)
	// Output:
	// false
	// true
}
