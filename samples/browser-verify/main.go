//go:build js && wasm

// Command browser-verify is the part of the page that judges: it gives
// JavaScript the function ashlarJudge(bundle, policy, at), two Uint8Arrays and a
// text, which returns the report of package judge as JSON.
//
// It opens no connection and reads nothing but its arguments and the clock.
package main

import (
	"encoding/json"
	"syscall/js"
	"time"

	"github.com/ashlar-mesh/ashlar/coordinator/client"
	"github.com/ashlar-mesh/ashlar/samples/browser-verify/judge"
)

func main() {
	js.Global().Set("ashlarJudge", js.FuncOf(func(_ js.Value, args []js.Value) any {
		if len(args) != 3 {
			return nil
		}
		out, err := json.Marshal(judge.Judge(judge.Input{Bundle: content(args[0]), Policy: content(args[1]), At: args[2].String(), Now: time.Now()}))
		if err != nil {
			return nil
		}
		return string(out)
	}))
	select {} // the page calls until it is closed
}

// content copies a Uint8Array, one byte more than a bundle may have at most.
func content(v js.Value) []byte {
	b := make([]byte, min(v.Length(), client.MaxBundle+1))
	js.CopyBytesToGo(b, v)
	return b
}
