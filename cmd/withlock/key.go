package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/hashkey/interop"
)

// schemes are the ways from a NAME to a key. Their errors continue the words
// "NAME is not ".
var schemes = map[string]func(name string) (hashkey.Key, error){
	"name":          func(name string) (hashkey.Key, error) { return hashkey.Name(name), nil },
	"advisory-lock": func(name string) (hashkey.Key, error) { return interop.AdvisoryLock(name), nil },
	"int64":         int64Key,
	"pair":          pairKey,
}

func parseKey(scheme, name string) (hashkey.Key, error) {
	f, ok := schemes[scheme]
	if !ok {
		names := strings.Join(slices.Sorted(maps.Keys(schemes)), ", ")
		return hashkey.Key{}, usageError("--key is %q, which is none of %s", scheme, names)
	}
	if name == "" {
		return hashkey.Key{}, nil
	}
	key, err := f(name)
	if err != nil {
		return key, usageError("NAME is not %v, as --key %s wants it: %q", err, scheme, name)
	}
	return key, nil
}

func int64Key(name string) (hashkey.Key, error) {
	id, err := strconv.ParseInt(name, 10, 64)
	if err != nil {
		return hashkey.Key{}, fmt.Errorf("a 64-bit integer")
	}
	return hashkey.Int64(id), nil
}

func pairKey(name string) (hashkey.Key, error) {
	first, second, _ := strings.Cut(name, ",")
	class, classErr := strconv.ParseInt(strings.TrimSpace(first), 10, 32)
	object, objectErr := strconv.ParseInt(strings.TrimSpace(second), 10, 32)
	if classErr != nil || objectErr != nil {
		return hashkey.Key{}, fmt.Errorf("two 32-bit integers with a comma between them")
	}
	return hashkey.Pair(int32(class), int32(object)), nil
}

// keyNumber writes key as the lock functions of SQL take it.
func keyNumber(key hashkey.Key) string {
	if class, object, ok := key.Pair(); ok {
		return fmt.Sprintf("%d,%d", class, object)
	}
	return strconv.FormatInt(key.Int64(), 10)
}

// turnSpace is the namespace of the locks that are turns.
const turnSpace = hashkey.Namespace("withlock turn")

// turnKey returns the key of the turn that goes before a lock.
func turnKey(key hashkey.Key) hashkey.Key { return turnSpace.Name(keyNumber(key)) }
