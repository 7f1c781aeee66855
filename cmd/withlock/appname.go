package main

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/internal/locksql"
)

// applicationPrefix and the NAME are withlock's application_name on the server.
const applicationPrefix = "withlock "

// applicationName returns the name under which the server shows a session.
//
// The server shows no more than ASCII, and question marks for the rest. So a
// NAME that has more is written in modified UTF-7 (RFC 3501, section 5.1.3): it
// is ASCII, and takes less room than other escapes.
func applicationName(name string) string {
	const most = 63 // NAMEDATALEN-1: see application_name in the manual
	full := strings.TrimSuffix(applicationPrefix+encodeName(name), " ")
	return full[:min(len(full), most)]
}

// utf7 is the alphabet of modified UTF-7.
var utf7 = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,").WithPadding(base64.NoPadding)

var (
	special = regexp.MustCompile(`[^ -~]`)
	toCode  = regexp.MustCompile(`[^ -~]+|&`)
	code    = regexp.MustCompile(`&[^-]*-?`)
)

// encodeName writes name in modified UTF-7, if the server would not show it as
// it is. What is no UTF-8 has no other form.
func encodeName(name string) string {
	if !special.MatchString(name) || !utf8.ValidString(name) {
		return name
	}
	return toCode.ReplaceAllStringFunc(name, func(part string) string {
		if part == "&" {
			return "&-"
		}
		var units []byte
		for _, unit := range utf16.Encode([]rune(part)) {
			units = binary.BigEndian.AppendUint16(units, unit)
		}
		return "&" + utf7.EncodeToString(units) + "-"
	})
}

// decodeName is the reverse of encodeName. It returns false for what encodeName
// does not write.
func decodeName(text string) (name string, ok bool) {
	name = code.ReplaceAllStringFunc(text, func(part string) string {
		part = strings.TrimSuffix(part[1:], "-")
		if part == "" {
			return "&"
		}
		units, _ := utf7.DecodeString(part) // what is wrong shows below
		var all []uint16
		for pair := range slices.Chunk(units, 2) {
			all = append(all, binary.BigEndian.Uint16(append(pair, 0)))
		}
		return string(utf16.Decode(all))
	})
	return name, encodeName(name) == text
}

// readable writes the name of an application for people: that of a withlock with
// its NAME as it was given.
func readable(application string) string {
	text, ok := strings.CutPrefix(application, applicationPrefix)
	if !ok {
		return application
	}
	name, ok := decodeName(text)
	if !ok {
		return application
	}
	return applicationPrefix + printable(name)
}

// nameOf returns key under the NAME that the withlock which locked it was given,
// where application tells: a name that was cut does not lead to the same key.
func nameOf(key hashkey.Key, application string) hashkey.Key {
	text, ok := strings.CutPrefix(application, applicationPrefix)
	if !ok {
		return key
	}
	names := []string{text}
	if name, ok := decodeName(text); ok && name != text {
		names = append(names, name)
	}
	var candidates []hashkey.Key
	for _, name := range names {
		for _, scheme := range schemes {
			if candidate, err := scheme(name); err == nil {
				candidates = append(candidates, candidate)
			}
		}
	}
	for _, candidate := range candidates {
		if hashkey.Compare(candidate, key) == 0 {
			return candidate
		}
		if turn := turnKey(candidate); hashkey.Compare(turn, key) == 0 {
			return key.Named("turn of " + nameFor(candidate))
		}
	}
	for _, candidate := range candidates {
		for i := range locksql.MaxSlots {
			if slot := candidate.Slot(i); hashkey.Compare(slot, key) == 0 {
				return slot
			}
		}
	}
	return key
}

// nameFor writes the NAME of a key.
func nameFor(key hashkey.Key) string { return cmp.Or(key.Name(), keyNumber(key)) }
