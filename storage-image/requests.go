package main

import (
	"io"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/gofiber/fiber/v3"
	"github.com/valyala/fasthttp"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3err"
)

const (
	maxParts = 10_000
	// Maximum size of a document: the parts of an upload, or the keys of a batch delete.
	maxDocument   = 2 << 20
	shortDocument = 64 << 10
	longDocuments = 8 // read at a time
	maxBatch      = 1000

	connectionsOfOne = 1024 // from an address
	headTime         = 10 * time.Second
	documentTime     = 30 * time.Second
	contentTime      = 10 * time.Minute
)

// check reports whether the value of a parameter is valid.
type check func(value string) bool

func anyText(string) bool     { return true }
func empty(value string) bool { return value == "" }
func oneOf(texts ...string) check {
	return func(value string) bool { return slices.Contains(texts, value) }
}
func number(least, most int) check {
	return func(value string) bool {
		parsed, err := strconv.Atoi(value)
		return err == nil && least <= parsed && parsed <= most && value[0] != '+'
	}
}

// operation of S3, with its required and its optional parameters.
type operation struct{ must, may map[string]check }

var (
	// Parameters of every operation: SDKs send its name, and a presigned URL has its signature in the query.
	always = map[string]check{
		"x-id": anyText, "X-Amz-Algorithm": oneOf("AWS4-HMAC-SHA256"), "X-Amz-Credential": anyText, "X-Amz-Date": anyText,
		"X-Amz-Expires": number(1, 7*24*3600), "X-Amz-SignedHeaders": anyText, "X-Amz-Signature": anyText,
		"X-Amz-Content-Sha256": anyText,
	}
	listing = map[string]check{
		"list-type": oneOf("2"), "prefix": isPrefix, "delimiter": oneOf("", "/"), "max-keys": number(0, 1000),
		"encoding-type": oneOf("url"), "continuation-token": isPrefix, "start-after": isPrefix, "marker": isPrefix,
		"fetch-owner": oneOf("true", "false"),
	}
	// Headers of the response, for browsers, and the part of an upload.
	response = map[string]check{
		"response-content-type": anyText, "response-content-disposition": anyText, "response-cache-control": anyText,
		"partNumber": number(1, maxParts),
	}
	upload = map[string]check{"uploadId": uploadID.MatchString}
	part   = map[string]check{"uploadId": uploadID.MatchString, "partNumber": number(1, maxParts)}

	ofService = map[string][]operation{http.MethodGet: {{}}}
	ofBucket  = map[string][]operation{
		http.MethodGet:  {{may: listing}},
		http.MethodHead: {{}},
		http.MethodPost: {{must: map[string]check{"delete": empty}}},
	}
	ofObject = map[string][]operation{
		http.MethodGet:    {{may: response}},
		http.MethodHead:   {{may: response}},
		http.MethodPut:    {{}, {must: part}},
		http.MethodPost:   {{must: map[string]check{"uploads": empty}}, {must: upload}},
		http.MethodDelete: {{}, {must: upload}},
	}

	// Accepted headers of Amazon; others would set owners, locks, tags or redirects.
	headers = regexp.MustCompile(`^x-amz-(date|api-version|content-sha256|decoded-content-length|trailer|user-agent|te|` +
		`sdk-checksum-algorithm|checksum-.+|meta-.+|copy-source(-range|-if-.+)?|metadata-directive|mp-object-size)$`)
)

// limit sets limits that versitygw leaves unset, before the server listens: a client must not block others, nor take all
// memory.
func limit(server *s3api.S3ApiServer) {
	field := reflect.ValueOf(server).Elem().FieldByName("app") // not exported by versitygw
	app := *(**fiber.App)(unsafe.Pointer(field.UnsafeAddr()))
	made := app.Server()
	made.DisablePreParseMultipartForm = true // forms are refused, and must not be read into memory first
	made.MaxConnsPerIP = connectionsOfOne
	made.ReadTimeout = headTime
	made.IdleTimeout = 2 * time.Minute
	made.HeaderReceived = func(header *fasthttp.RequestHeader) fasthttp.RequestConfig {
		if string(header.Method()) == fasthttp.MethodPut {
			return fasthttp.RequestConfig{ReadTimeout: contentTime}
		}
		return fasthttp.RequestConfig{ReadTimeout: documentTime}
	}
}

// healthy answers the readiness probe.
func healthy(ctx fiber.Ctx) error { return ctx.SendStatus(http.StatusOK) }

// admitDocuments limits concurrent requests with a long document: documents are in memory, contents are not.
func admitDocuments() fiber.Handler {
	admitted := make(chan struct{}, longDocuments)
	return func(ctx fiber.Ctx) error {
		if isContent(ctx) || ctx.Request().Header.ContentLength() <= shortDocument {
			return ctx.Next()
		}
		select {
		case admitted <- struct{}{}:
			defer func() { <-admitted }()
			return ctx.Next()
		default:
			busy := s3err.GetAPIError(s3err.ErrSlowDown)
			return ctx.Status(busy.StatusCode()).Send(busy.XMLBody("", ""))
		}
	}
}

// isContent reports whether the body of a request is an object's content.
func isContent(ctx fiber.Ctx) bool {
	return ctx.Method() == http.MethodPut && ctx.Get("X-Amz-Copy-Source") == ""
}

// readToEnd reads the rest of a body in HTTP chunks, which SDKs send by https. versitygw leaves the last chunk unread, and
// the server would parse it as the connection's next request.
func readToEnd(ctx fiber.Ctx) error {
	defer func() {
		body := ctx.Request().BodyStream()
		if body == nil || ctx.Request().Header.ContentLength() != -1 {
			return
		}
		connection := ctx.RequestCtx().Conn()
		_ = connection.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := io.CopyN(io.Discard, body, maxDocument); err != io.EOF {
			ctx.Response().Header.SetConnectionClose()
		}
		_ = connection.SetReadDeadline(time.Time{})
	}()
	return ctx.Next()
}

// refuseUnknown passes only requests of the platform's clients, whose effects in versitygw are known.
func refuseUnknown(ctx fiber.Ctx) error {
	path, ok := decoded(string(ctx.Request().URI().PathOriginal()), url.PathUnescape)
	if !ok || path == "" || path[0] != '/' {
		return invalid("the path", keyRules)
	}
	bucket, key, inBucket := strings.Cut(path[1:], "/")
	operations := ofObject
	switch {
	case bucket == "" && !inBucket:
		operations = ofService
	case !isBucketName(bucket):
		return invalid("the bucket's name", "3 to 63 lower-case letters, digits, dots and hyphens are allowed")
	case key == "":
		operations = ofBucket
	case !isPlainKey(strings.TrimSuffix(key, "/")):
		return invalid("the key", keyRules)
	}
	query, err := url.ParseQuery(string(ctx.Request().URI().QueryString()))
	if err != nil || !slices.ContainsFunc(operations[ctx.Method()], func(o operation) bool { return o.matches(query) }) {
		return notOffered(ctx.Method() + " with these parameters")
	}
	if size := ctx.Request().Header.ContentLength(); !isContent(ctx) && (size > maxDocument || size == -1) {
		return invalid("the size of the body", "it must be known, and at most 2 MiB")
	}
	if strings.HasPrefix(strings.ToLower(ctx.Get("Content-Type")), "multipart/") && ctx.Method() == http.MethodPost {
		return notOffered("a form")
	}
	for name, value := range ctx.Request().Header.All() {
		if err := checkHeader(strings.ToLower(string(name)), string(value)); err != nil {
			return err
		}
	}
	return nil
}

func checkHeader(name, value string) error {
	switch {
	case !strings.HasPrefix(name, "x-amz-"):
	case name == "x-amz-acl" && (value == "private" || value == "bucket-owner-full-control"):
	case name == "x-amz-storage-class" && value == "STANDARD":
	case !headers.MatchString(name):
		return notOffered("the header " + name)
	case name == "x-amz-copy-source":
		path, ok := decoded(strings.TrimPrefix(value, "/"), url.QueryUnescape)
		bucket, key, _ := strings.Cut(path, "/")
		if !ok || !isBucketName(bucket) || !isPlainKey(key) || strings.Contains(key, "?") {
			return invalid(name, "name a bucket and a key, without a version: "+keyRules)
		}
	}
	return nil
}

// decoded removes percent-encoding. The result may still look encoded, as keys of Spark do (day=1%2F2). A key that would
// become another path if it were decoded again is refused.
func decoded(text string, unescape func(string) (string, error)) (string, bool) {
	once, err := unescape(text)
	if err != nil {
		return "", false
	}
	for last := once; ; {
		next, err := url.PathUnescape(last)
		if err != nil || next == last {
			return once, true
		}
		if !isPlainKey(strings.Trim(next, "/")) {
			return "", false
		}
		last = next
	}
}

// matches reports whether a query is this operation's: each parameter is known, occurs once, and has a valid value.
func (o operation) matches(query url.Values) bool {
	for name := range o.must {
		if !query.Has(name) {
			return false
		}
	}
	for name, values := range query {
		valid := always[name]
		if valid == nil {
			valid = o.may[name]
		}
		if valid == nil {
			valid = o.must[name]
		}
		if valid == nil || len(values) != 1 || !valid(values[0]) {
			return false
		}
	}
	return true
}
