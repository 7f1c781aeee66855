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

// applicationPrefix and the NAME are what withlock calls itself on the server.
const applicationPrefix = "withlock "

// applicationName returns the name under which the server shows a session. The
// server would cut it as well, but within a character.
func applicationName(name string) string {
	const most = 63 // NAMEDATALEN-1: see application_name in the manual
	full := strings.TrimSuffix(applicationPrefix+name, " ")
	if len(full) <= most {
		return full
	}
	cut := most
	for cut > 0 && full[cut]&0xC0 == 0x80 { // in the middle of a character
		cut--
	}
	return full[:cut]
}

// nameOf returns key under the NAME that the withlock which locked it was given,
// where application tells: a name that was cut, or is not meant as a name,
// does not lead to the same key.
func nameOf(key hashkey.Key, application string) hashkey.Key {
	name, ok := strings.CutPrefix(application, applicationPrefix)
	if !ok {
		return key
	}
	for _, candidate := range []hashkey.Key{hashkey.Name(name), interop.AdvisoryLock(name)} {
		if hashkey.Compare(candidate, key) == 0 {
			return candidate
		}
	}
	return key
}
