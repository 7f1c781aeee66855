package main

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
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

func isPlain(r rune) bool { return r >= ' ' && r <= '~' }

// encodeName writes name in modified UTF-7, if the server would not show it as
// it is. What is no UTF-8 has no other form.
func encodeName(name string) string {
	special := strings.ContainsFunc(name, func(r rune) bool { return !isPlain(r) })
	if !special || !utf8.ValidString(name) {
		return name
	}
	var b strings.Builder
	for rest := name; rest != ""; {
		if plain := strings.IndexFunc(rest, func(r rune) bool { return !isPlain(r) || r == '&' }); plain != 0 {
			if plain < 0 {
				plain = len(rest)
			}
			b.WriteString(rest[:plain])
			rest = rest[plain:]
			continue
		}
		if rest[0] == '&' {
			b.WriteString("&-")
			rest = rest[1:]
			continue
		}
		end := strings.IndexFunc(rest, isPlain)
		if end < 0 {
			end = len(rest)
		}
		var units []byte
		for _, unit := range utf16.Encode([]rune(rest[:end])) {
			units = binary.BigEndian.AppendUint16(units, unit)
		}
		b.WriteString("&" + utf7.EncodeToString(units) + "-")
		rest = rest[end:]
	}
	return b.String()
}

// decodeName is the reverse of encodeName. It returns false for what encodeName
// does not write.
func decodeName(text string) (name string, ok bool) {
	var b strings.Builder
	for rest := text; rest != ""; {
		plain, coded, found := strings.Cut(rest, "&")
		b.WriteString(plain)
		if !found {
			break
		}
		code, after, _ := strings.Cut(coded, "-")
		if code == "" {
			b.WriteByte('&')
		}
		units, err := utf7.DecodeString(code)
		if err != nil {
			return "", false
		}
		var all []uint16
		for pair := range slices.Chunk(units, 2) {
			all = append(all, binary.BigEndian.Uint16(append(pair, 0)))
		}
		b.WriteString(string(utf16.Decode(all)))
		rest = after
	}
	return b.String(), encodeName(b.String()) == text
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
