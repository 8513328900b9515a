"""A `ReservationMap` behind a pipe: plain JSON lines, no import of mmspec.

mmspec check "exec:python exec_reservation_map.py"
"""

import json
import sys


def main() -> None:
    cells: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        params = request.get("params", {})
        method = request["method"]
        result = None
        if method == "hello":
            result = {"interface": "ReservationMap", "version": 1}
        elif method == "new":
            cells = set()
        elif method == "regions":
            result = []
            for cell in sorted(cells):
                if result and result[-1][1] == cell:
                    result[-1][1] += 1
                else:
                    result.append([cell, cell + 1])
        elif method == "region_chg":
            result = len(set(range(params["f"], params["t"])) - cells)
        elif method == "region_add":
            cells |= set(range(params["f"], params["t"]))
        elif method == "region_count":
            result = len(cells & set(range(params["f"], params["t"])))
        elif method == "region_truncate":
            dropped = {c for c in cells if c >= params["end"]}
            cells -= dropped
            result = len(dropped)
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)


if __name__ == "__main__":
    main()
