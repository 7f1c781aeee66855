package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
)

var (
	errBadRequest = errors.New("bad request")
	errMediaType  = errors.New("unsupported media type")
)

// pathID returns the {id} of the path.
func pathID(r *http.Request) (int64, error) {
	return parseInt("id", r.PathValue("id"))
}

// bodyCents returns the amount of money called name, of a JSON object or of a
// form, if it is no less than least.
func bodyCents(r *http.Request, name string, least int64) (int64, error) {
	text, err := bodyField(r, name)
	if err != nil {
		return 0, err
	}
	cents, err := parseInt(name, text)
	if err != nil {
		return 0, err
	}
	if cents < least {
		return 0, fmt.Errorf("%w: %s is %d cents, want %d or more", errBadRequest, name, cents, least)
	}
	return cents, nil
}

func bodyField(r *http.Request, name string) (string, error) {
	header := r.Header.Get("Content-Type")
	mediaType, _, err := mime.ParseMediaType(header)
	if err != nil {
		return "", fmt.Errorf("%w: Content-Type is %q: %w", errMediaType, header, err)
	}
	switch mediaType {
	case "application/json":
		return jsonField(r, name)
	case "application/x-www-form-urlencoded":
		return formField(r, name)
	}
	return "", fmt.Errorf("%w: Content-Type is %q, want JSON or a form", errMediaType, header)
}

func jsonField(r *http.Request, name string) (string, error) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return "", fmt.Errorf("%w: read the body: %w", errBadRequest, err)
	}
	var body map[string]json.Number
	if err := json.Unmarshal(text, &body); err != nil {
		return "", fmt.Errorf(`%w: the body is not like {"%s": 5}: %w`, errBadRequest, name, err)
	}
	number, ok := body[name]
	if !ok {
		return "", fmt.Errorf("%w: the body has no %q", errBadRequest, name)
	}
	return number.String(), nil
}

func formField(r *http.Request, name string) (string, error) {
	if err := r.ParseForm(); err != nil {
		return "", fmt.Errorf("%w: the body is not like %s=5: %w", errBadRequest, name, err)
	}
	if !r.PostForm.Has(name) {
		return "", fmt.Errorf("%w: the body has no %q", errBadRequest, name)
	}
	return r.PostForm.Get(name), nil
}

func parseInt(name, text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %s is %q, want a whole number", errBadRequest, name, text)
	}
	return n, nil
}
