package pgxlock

import (
	"reflect"
	"testing"
)

// Every setting is the option of its name.
func TestSettings(t *testing.T) {
	var o Options
	options := reflect.ValueOf(&o).Elem()
	for i := range options.NumField() {
		switch f := options.Field(i); {
		case f.CanInt():
			f.SetInt(int64(i + 1))
		case f.Kind() == reflect.Bool:
			f.SetBool(true)
		}
	}
	s := reflect.ValueOf(settings(&o))
	for i := range s.NumField() {
		name := s.Type().Field(i).Name
		if got, want := s.Field(i).Interface(), options.FieldByName(name).Interface(); got != want {
			t.Errorf("%s is %v, and the option %v", name, got, want)
		}
	}
}
