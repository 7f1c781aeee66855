package hashkey_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"

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

// A metric is labelled with the namespace, of which there are few. The name is
// for the log.
func ExampleKey_Namespace() {
	waits := map[string]int{}
	for _, id := range []int64{41, 42, 43} {
		key := hashkey.Namespace("orders").ID(id)
		waits[key.Namespace()]++
	}
	fmt.Println(waits)
	// Output: map[orders:3]
}

func ExampleKey_MarshalText() {
	key := hashkey.Name("nightly")

	line, err := json.Marshal(struct{ Key hashkey.Key }{key})
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))

	untimed := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	log := slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: untimed}))
	log.Info("not acquired", "key", key)
	// Output:
	// {"Key":"\"nightly\" (-5587572470608224788)"}
	// {"level":"INFO","msg":"not acquired","key":"\"nightly\" (-5587572470608224788)"}
}
