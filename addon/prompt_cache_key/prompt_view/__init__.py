"""The content view "Prompt" of mitmproxy's UIs."""
