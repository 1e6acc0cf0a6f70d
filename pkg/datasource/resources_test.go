package datasource_test

import (
	"net/http"
	"testing"
)

// Parameters that cannot be parsed are refused, as the gateway does.
func TestBadParameters(t *testing.T) {
	t.Parallel()
	g := launch(t, true)
	for _, path := range []string{"status?since=%zz", "status?since=a;b", "sessions?search=%zz", "specs?session=a;b"} {
		if code, body, _ := g.call(path); code != http.StatusBadRequest || body["title"] != "bad request" || body["detail"] == nil {
			t.Errorf("%s: %d %v", path, code, body)
		}
	}
}
