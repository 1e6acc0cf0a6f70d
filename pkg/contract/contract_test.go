package contract_test

import (
	"os"
	"testing"

	"github.com/specwatch/specwatch/pkg/contract"
)

func TestTypeScriptIsUpToDate(t *testing.T) {
	got, err := os.ReadFile("../../src/contract.gen.ts")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != contract.TypeScript() {
		t.Error("src/contract.gen.ts differs from the Go definitions: run `go generate ./pkg/contract`")
	}
}
