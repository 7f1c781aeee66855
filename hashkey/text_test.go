package hashkey_test

import (
	"bytes"
	"encoding"
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pgadvisory/pgadvisory/hashkey"
)

var _ encoding.TextMarshaler = hashkey.Key{}

// texts has a key of each kind with its text.
var texts = map[hashkey.Key]string{
	{}:                                      "0",
	hashkey.Int64(-7):                       "-7",
	hashkey.Pair(1, -2):                     "(1, -2)",
	hashkey.Name("a"):                       `"a" (-3292477735350538661)`,
	hashkey.Name("\xff"):                    hashkey.Name("\xff").String(), // escaped: JSON has no such byte
	hashkey.Namespace("orders").ID(42):      `"orders/42" (6696531377227644590)`,
	hashkey.Pair(1, -2).Named("nightly"):    `"nightly" (1, -2)`,
	hashkey.Int64(7).Named("<a> & \"b\"\n"): `"<a> & \"b\"\n" (7)`,
}

func TestMarshalText(t *testing.T) {
	for key, want := range texts {
		if got, err := key.MarshalText(); err != nil || string(got) != want {
			t.Errorf("MarshalText() = %s, %v, want %s", got, err, want)
		}
	}
}

func TestJSON(t *testing.T) {
	type record struct {
		Key     hashkey.Key
		Pointer *hashkey.Key
		Keys    []hashkey.Key
		Any     any
		Turns   map[hashkey.Key]int
	}
	type read struct {
		Key, Pointer, Any string
		Keys              []string
		Turns             map[string]int
	}
	for key, text := range texts {
		encoded, err := json.Marshal(record{key, &key, []hashkey.Key{key}, key, map[hashkey.Key]int{key: 3}})
		if err != nil {
			t.Errorf("%v: %v", key, err)
			continue
		}
		var got read
		if err := json.Unmarshal(encoded, &got); err != nil {
			t.Errorf("%s: %v", encoded, err)
			continue
		}
		want := read{text, text, text, []string{text}, map[string]int{text: 3}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", encoded, diff)
		}
	}
}

func TestSlog(t *testing.T) {
	for key, text := range texts {
		var lines bytes.Buffer
		log := slog.New(slog.NewJSONHandler(&lines, nil))
		log.Info("locked", "key", key, "event", struct{ Keys []hashkey.Key }{[]hashkey.Key{key}})
		var got struct {
			Key   string
			Event struct{ Keys []string }
		}
		if err := json.Unmarshal(lines.Bytes(), &got); err != nil {
			t.Errorf("%s: %v", &lines, err)
			continue
		}
		if got.Key != text || len(got.Event.Keys) != 1 || got.Event.Keys[0] != text {
			t.Errorf("the line is %s, want %s in it twice", &lines, text)
		}
	}
}

// Keys of one lock under several names are several members of an object, as
// they are several keys of the map.
func TestJSONMapKeepsNamesApart(t *testing.T) {
	number := hashkey.Name("a").Int64()
	turns := map[hashkey.Key]int{
		hashkey.Name("a"):                  1,
		hashkey.Int64(number):              2,
		hashkey.Int64(number).Named("b"):   3,
		hashkey.Namespace("orders").ID(42): 4,
	}
	encoded, err := json.Marshal(turns)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]int
	if err := json.Unmarshal(encoded, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{}
	for key, n := range turns {
		want[key.String()] = n
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", encoded, diff)
	}
}
