package main

import (
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v3"
	"github.com/valyala/fasthttp"
)

// FuzzRequests proves that an accepted path or copy source stays in its bucket, however often it is decoded. The query
// of an accepted request has no value that could be another path.
func FuzzRequests(f *testing.F) {
	for _, seed := range [][4]string{
		{"GET", "/bucket/team-a/x", "x-amz-date", "20260101T000000Z"},
		{"GET", "/bucket?list-type=2&prefix=team-a/&delimiter=/", "x-amz-user-agent", "x"},
		{"PUT", "/bucket/team-a/x?partNumber=1&uploadId=0123456789abcdef0123456789abcdef", "x-amz-content-sha256", "x"},
		{"PUT", "/bucket/team-a/x", "x-amz-copy-source", "/bucket/team-a/y%2F..%2Fz"},
		{"POST", "/bucket?delete", "content-type", "multipart/form-data"},
		{"DELETE", "/bucket/team-a/day=1%2F2?uploadId=..%2F..", "x-amz-acl", "private"},
		{"HEAD", "/bucket/%2e%2e/%252e%252e%252fteam-b/x", "x-amz-meta-a", "b"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	var passed *fiber.Ctx
	app := fiber.New()
	app.Use(refuseUnknown, func(ctx fiber.Ctx) error { passed = &ctx; return ctx.SendStatus(http.StatusNoContent) })
	handler := app.Handler()
	f.Fuzz(func(t *testing.T, method, target, header, value string) {
		var ctx fasthttp.RequestCtx
		ctx.Request.Header.SetMethod(method)
		ctx.Request.SetRequestURI(target)
		ctx.Request.Header.Set(header, value)
		passed = nil
		handler(&ctx)
		if passed == nil {
			return
		}
		staysInside(t, string(ctx.Path()))
		for _, source := range ctx.Request.Header.PeekAll("X-Amz-Copy-Source") {
			staysInside(t, string(source))
		}
		for name, value := range ctx.QueryArgs().All() {
			if strings.HasPrefix(string(name), "uploadId") && strings.ContainsAny(string(value), "/.\\\x00") {
				t.Errorf("upload id %q", value)
			}
		}
	})
}

// staysInside fails if a path, decoded any number of times, leads elsewhere below a root than its text says.
func staysInside(t *testing.T, text string) {
	t.Helper()
	for {
		for _, part := range strings.Split(text, "/") {
			if part == ".." || strings.ContainsAny(part, "\x00\\") {
				t.Fatalf("%q leads elsewhere", text)
			}
		}
		bucket, _, _ := strings.Cut(strings.TrimPrefix(text, "/"), "/")
		if bucket != "" && !strings.HasPrefix(path.Join("/data", text)+"/", "/data/"+bucket+"/") {
			t.Fatalf("%q leaves its bucket", text)
		}
		next := text
		if decoded, err := url.PathUnescape(text); err == nil {
			next = decoded
		}
		if next == text {
			return
		}
		text = next
	}
}
